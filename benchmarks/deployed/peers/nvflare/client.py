"""A site of NVFlare's that does not train: what came, plus a constant of the site's own."""

import numpy as np
import nvflare.client as flare


def main() -> None:
    flare.init()
    constant = np.float32(1e-3 * int(flare.get_site_name().rpartition("-")[2]))
    before = 0.0
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        ((name, vector),) = model.params.items()
        assert vector[0] > before, "the sites' constants are not in the average"
        before = vector[0]
        flare.send(flare.FLModel(params={name: vector + constant}))


if __name__ == "__main__":
    main()
