"""A site of Flower's that does not train: what came, plus a constant of the site's own."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    (vector,) = message.content["arrays"].to_numpy_ndarrays()
    vector = vector + np.float32(1e-3 * (1 + context.node_config["site"]))
    content = {
        "arrays": ArrayRecord([vector]),
        "metrics": MetricRecord({"num-examples": 1}),
    }
    return Message(content=RecordDict(content), reply_to=message)
