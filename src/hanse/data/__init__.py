"""Data for federations: partitions of one data set, splits, loaders of known sets, generators."""

from hanse.data.heart import HEART_FEATURES, heart_disease, heart_features
from hanse.data.labels import site_id
from hanse.data.medpar import medpar
from hanse.data.partition import (
    PARTITIONERS,
    ByColumn,
    Dirichlet,
    Iid,
    Partitioner,
    Quantity,
    Shards,
)
from hanse.data.persons import OfPersons
from hanse.data.split import train_test_split
from hanse.data.summary import Summary, summary
from hanse.data.synthetic import synthetic
from hanse.data.table import Table

__all__ = [
    "HEART_FEATURES",
    "PARTITIONERS",
    "ByColumn",
    "Dirichlet",
    "Iid",
    "OfPersons",
    "Partitioner",
    "Quantity",
    "Shards",
    "Summary",
    "Table",
    "heart_disease",
    "heart_features",
    "medpar",
    "site_id",
    "summary",
    "synthetic",
    "train_test_split",
]
