"""The ClientApp of ``flower_runner.py``, in a module of its own: Ray's actors import it."""

from functools import cache

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from jobs import JOBS, cohort
from torch import nn

app = ClientApp()


@cache
def data(name: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the rows of all clients, made once in each actor."""
    torch.set_num_threads(1)
    rows = JOBS[name].data().items()
    return {c: (torch.from_numpy(x), torch.from_numpy(y)) for c, (x, y) in rows}


@cache
def chosen(name: str, number: int) -> tuple[str, ...]:
    """Return who trains in a round."""
    return cohort(JOBS[name], [*data(name)], number)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the client of the round's cohort that has this node's number."""
    told = message.content["config"]
    name, job = told["job"], JOBS[told["job"]]
    x, y = data(name)[chosen(name, told["server-round"])[context.node_config["partition-id"]]]
    model, loss = job.model(), nn.CrossEntropyLoss()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=job.lr)
    for index in torch.randperm(len(y)).split(job.batch):
        optimizer.zero_grad()
        loss(model(x[index]), y[index]).backward()
        optimizer.step()
    content = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"num-examples": len(y)}),
    }
    return Message(content=RecordDict(content), reply_to=message)
