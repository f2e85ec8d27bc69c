"""Heart disease at four hospitals: the same file for a simulation and, later, for real sites."""

from torch import nn

import hanse
from hanse.data import HEART_FEATURES, heart_disease, heart_features, train_test_split
from hanse.train.torch import TorchTask


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(len(HEART_FEATURES), 16), nn.ReLU(), nn.Linear(16, 1))


task = TorchTask(
    model=model,
    loss=nn.BCEWithLogitsLoss(),
    metrics=[hanse.metrics.auc, hanse.metrics.accuracy],
)


def data(site: hanse.Site):
    x, y = heart_features(heart_disease(site.source("heart")).site(site.id))
    return train_test_split(x, y, test=0.3, seed=site.seed)


def inputs(path):  # what `hanse predict RUN data.csv` gives the model
    return heart_features(heart_disease(path))[0]
