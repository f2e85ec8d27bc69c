"""Data sets in all their forms, and what is said of data that cannot be trained on."""

from functools import partial

import numpy as np
import pytest
import torch
from tests.train.models import FEATURES, binary, classes, logistic, table, tabular
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import hanse
from hanse import DataError, LocalTraining, TaskError
from hanse.train.torch import TorchTask

X, Y = table(23, 1)
LOCAL = LocalTraining(lr=0.1, batch_size=8, epochs=2, momentum=0.9)


class Items(Dataset):
    """Map-style: one row at a time."""

    def __init__(self, x, y) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int):
        return self.x[index], self.y[index]


class Plain:
    """Map-style without being a torch Dataset; the target is a Python number."""

    def __init__(self, x, y) -> None:
        self.items = Items(x, y)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        return torch.from_numpy(self.items.x[index]), int(self.items.y[index])


FORMS = {
    "arrays": lambda x, y: (x, y),
    "a list of arrays": lambda x, y: [x, y],
    "float64": lambda x, y: (x.astype(np.float64), y.astype(np.float64)),
    "narrow integers": lambda x, y: (x, y.astype(np.uint8)),
    "wide unsigned": lambda x, y: (x, y.astype(np.uint32)),
    "booleans": lambda x, y: (x, y > 0),
    "nested lists": lambda x, y: (x.tolist(), y.tolist()),
    "tensors": lambda x, y: (torch.from_numpy(x), torch.from_numpy(y)),
    "tensors that require gradients": lambda x, y: (
        torch.from_numpy(x).requires_grad_(),
        torch.from_numpy(y),
    ),
    "a tensor and an array": lambda x, y: (torch.from_numpy(x), y),
    "TensorDataset": lambda x, y: TensorDataset(torch.from_numpy(x), torch.from_numpy(y)),
    "Dataset": lambda x, y: Items(x, y),
    "anything with a length and items": lambda x, y: Plain(x, y),
    "columns first": lambda x, y: (np.asfortranarray(x), y),
    "every second row": lambda x, y: (np.repeat(x, 2, 0)[::2], np.repeat(y, 2)[::2]),
}


def digest(task: TorchTask, form: str, x=X, y=Y) -> str:
    data = {"a": (FORMS[form](x, y), FORMS[form](x, y)), "b": (table(9, 2), None)}
    return hanse.simulate(task, data, local=LOCAL, rounds=2).model_digest


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("loss", ["binary", "classes"])
def test_every_form_of_the_same_data_makes_the_same_model(form, loss):
    task = binary(tabular) if loss == "binary" else classes(lambda: tabular(2))
    assert digest(task, form) == digest(task, "arrays")


@pytest.mark.parametrize("read_only", ["flag", "memory map"])
def test_data_that_may_not_be_written_to_trains_without_a_warning(read_only, tmp_path, recwarn):
    x = X.copy()
    x.flags.writeable = False
    if read_only == "memory map":
        np.save(tmp_path / "x.npy", X)
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert digest(binary(), "arrays", x=x) == digest(binary(), "arrays")
    assert not recwarn.list


def test_training_never_writes_to_the_users_arrays():
    x, y = X.copy(), Y.astype(np.float32)

    class Writes(nn.Linear):
        def forward(self, x):
            return super().forward(x.mul_(2.0))

    hanse.simulate(binary(lambda: Writes(FEATURES, 1)), {"a": ((x, y), (x, y))}, rounds=2)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


class Two(nn.Module):
    """A model of two inputs, one of them integers that it looks up."""

    def __init__(self) -> None:
        super().__init__()
        self.wards, self.linear = nn.Embedding(5, 3), nn.Linear(FEATURES + 3, 1)

    def forward(self, x, ward):
        return self.linear(torch.cat([x, self.wards(ward)], 1))


def test_a_model_may_take_several_inputs_in_all_forms():
    wards = np.arange(23) % 5

    class Triples(Dataset):
        def __len__(self):
            return 23

        def __getitem__(self, i):
            return X[i], wards[i], Y[i]

    tensors = TensorDataset(*map(torch.from_numpy, (X, wards, Y)))
    digests = {
        hanse.simulate(binary(Two), {"a": (form, form)}, local=LOCAL, rounds=2).model_digest
        for form in ((X, wards, Y), [X, wards, Y], tensors, Triples())
    }
    assert len(digests) == 1


# Losses: outputs, targets, and what is made of them


def loss_of(model, loss, x, y):
    """The loss that a run reports before it has learnt anything."""
    task = TorchTask(model=model, loss=loss)
    result = hanse.simulate(task, {"a": ((x, y), (x, y))}, local=LocalTraining(lr=0.0), rounds=1)
    row = result.history[0]
    assert row["train"]["loss"] == pytest.approx(row["evaluation"]["pooled"]["loss"], abs=1e-5)
    return row["train"]["loss"], torch.from_numpy(x), result.model


def test_one_output_per_row_fits_targets_per_row_and_a_column_fits_a_column():
    for shape in ((-1,), (-1, 1)):
        y = Y.reshape(shape)
        found, x, model = loss_of(logistic, nn.BCEWithLogitsLoss(), X, y)
        expected = nn.BCEWithLogitsLoss()(model(x)[:, 0], torch.from_numpy(Y).float())
        assert found == pytest.approx(expected.item(), abs=1e-5)


def test_probabilities_are_scored_like_the_logits_they_come_from():
    class Sigmoid(nn.Linear):
        def forward(self, x):
            return torch.sigmoid(super().forward(x))[:, 0]

    metrics = [hanse.metrics.auc, hanse.metrics.accuracy, hanse.metrics.recall]
    logits, chances = (
        hanse.simulate(
            TorchTask(model=partial(kind, FEATURES, 1), loss=loss, metrics=metrics),
            {"a": ((X, Y), (X, Y))},
            rounds=2,
        ).history[-1]["evaluation"]["pooled"]
        for kind, loss in ((nn.Linear, nn.BCEWithLogitsLoss()), (Sigmoid, nn.BCELoss()))
    )
    for name in ("auc", "accuracy", "recall", "loss"):
        assert chances[name] == pytest.approx(logits[name], abs=1e-4)


def test_regression_has_the_mean_squared_error_as_loss_and_metric():
    y = X @ np.arange(FEATURES, dtype=np.float32)
    task = TorchTask(
        model=logistic, loss=nn.MSELoss(), metrics=[hanse.metrics.mse, hanse.metrics.mae]
    )
    data = {"a": ((X[:10], y[:10]), (X[:10], y[:10])), "b": ((X[10:], y[10:]), (X[10:], y[10:]))}
    result = hanse.simulate(task, data, rounds=1)
    error = result.model(torch.from_numpy(X)).detach().numpy()[:, 0] - y
    pooled = result.history[0]["evaluation"]["pooled"]
    assert pooled["mse"] == pytest.approx(float((error**2).mean()), abs=1e-3)
    assert pooled["mae"] == pytest.approx(float(abs(error).mean()), abs=1e-3)
    assert pooled["loss"] == pytest.approx(pooled["mse"], abs=1e-3)


@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_targets_of_any_size_are_trained_on_and_measured(scale):
    """Charges in dollars, squared and summed, still have a place in exact sums."""
    y = scale * (1 + X[:, 0])
    task = TorchTask(model=logistic, loss=nn.MSELoss(), metrics=[hanse.metrics.mse])
    result = hanse.simulate(task, {"a": ((X, y), (X, y))}, local=LocalTraining(lr=0.1), rounds=20)
    assert all(row["counted"] == ["a"] for row in result.history)
    error = (result.model(torch.from_numpy(X)).detach().numpy()[:, 0].astype(float) - y) ** 2
    pooled = result.history[-1]["evaluation"]["pooled"]
    assert pooled["mse"] == pytest.approx(error.mean(), rel=1e-5)
    assert pooled["loss"] == pytest.approx(error.mean(), rel=1e-5)
    assert result.history[-1]["train"]["loss"] < result.history[0]["train"]["loss"] / 10


def test_a_model_may_put_out_whatever_its_loss_takes():
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(FEATURES, 3), nn.Linear(3, FEATURES)

        def forward(self, x):
            code = self.encode(x)
            return self.decode(code), code

    class Rebuilding(nn.Module):
        def forward(self, outputs, targets):
            rebuilt, code = outputs
            return ((rebuilt - targets) ** 2).mean() + 0.01 * code.abs().mean()

    task = TorchTask(model=Autoencoder, loss=Rebuilding())
    result = hanse.simulate(task, {"a": ((X, X), (X, X))}, local=LOCAL, rounds=3)
    losses = [row["evaluation"]["pooled"]["loss"] for row in result.history]
    assert losses == sorted(losses, reverse=True)
    with pytest.raises(TaskError, match="output tuple does not fit the metric mse"):
        hanse.simulate(
            TorchTask(model=Autoencoder, loss=Rebuilding(), metrics=[hanse.metrics.mse]),
            {"a": ((X, X), (X, X))},
            rounds=1,
        )


def test_classes_may_be_numbers_of_any_dtype_or_probabilities():
    three = Y + (X[:, 2] > 0)
    onehot = np.eye(3, dtype=np.float32)[three]
    digests = {
        hanse.simulate(
            TorchTask(model=lambda: tabular(3), loss=nn.CrossEntropyLoss()),
            {"a": ((X, y), None)},
            local=LOCAL,
            rounds=2,
        ).model_digest
        for y in (three, three.astype(np.float32), three.astype(np.uint16))
    }
    assert len(digests) == 1
    found, _, _ = loss_of(lambda: tabular(3), nn.CrossEntropyLoss(), X, onehot)
    numbers, _, _ = loss_of(lambda: tabular(3), nn.CrossEntropyLoss(), X, three)
    assert found == pytest.approx(numbers, abs=1e-5)


def test_a_sequence_of_classes_per_row_is_trained_and_measured_per_place():
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look = nn.Embedding(7, 4)

        def forward(self, x):
            return self.look(x).transpose(1, 2)  # rows × classes × places, as torch has it

    x = np.random.default_rng(0).integers(0, 7, (30, 5))
    y = x % 4
    task = TorchTask(model=Tagger, loss=nn.CrossEntropyLoss(), metrics=[hanse.metrics.accuracy])
    local = LocalTraining(optimizer="adam", lr=0.3, epochs=20)
    result = hanse.simulate(task, {"a": ((x, y), (x, y))}, local=local, rounds=1)
    predicted = result.model(torch.from_numpy(x)).argmax(1).numpy()
    accuracy = result.history[0]["evaluation"]["pooled"]["accuracy"]
    assert accuracy == (predicted == y).mean() > 0.9


def test_a_loss_of_ones_own_gets_integer_targets_as_they_are():
    class Focal(nn.Module):
        def forward(self, outputs, targets):
            chosen = torch.log_softmax(outputs, 1).gather(1, targets[:, None])[:, 0]
            return -((1 - chosen.exp()) ** 2 * chosen).mean()

    task = TorchTask(model=lambda: tabular(2), loss=Focal(), metrics=[hanse.metrics.accuracy])
    result = hanse.simulate(task, {"a": ((X, Y), (X, Y))}, local=LOCAL, rounds=2)
    assert result.history[-1]["train"]["loss"] < result.history[0]["train"]["loss"]


def test_items_are_checked_and_named_by_their_place_in_the_data_set():
    x = X.copy()
    x[17, 3] = np.nan
    with pytest.raises(DataError, match=r"a: the input is nan in row 17, column 3"):
        hanse.simulate(binary(), {"a": (Items(x, Y), None)}, local=LOCAL, rounds=1)


# Refused, in one line


def spoilt(row, column, value):
    x = X.copy()
    x[row, column] = value
    return x


class Unsized(IterableDataset):
    def __iter__(self):
        return iter([(X[0], Y[0])])


BAD = {
    "no rows": ((X[:0], Y[:0]), "a: the data set is empty"),
    "no items": (Items(X[:0], Y[:0]), "a: the data set is empty"),
    "a NaN": ((spoilt(4, 9, np.nan), Y), "the input is nan in row 4, column 9"),
    "an infinity": ((spoilt(0, 26, -np.inf), Y), "the input is -inf in row 0, column 26"),
    "too large for float32": ((X * np.float64(1e300), Y), "inf in row 0, column 0"),
    "a NaN label": ((X, np.where(Y > 0, 1.0, np.nan)), "the target is nan in row"),
    "fewer labels": ((X, Y[:-1]), "23 inputs but 22 targets"),
    "text": ((X.astype(str), Y), "an array of <U.* is not numeric"),
    "text labels": ((X, np.where(Y > 0, "ill", "well")), "an array of <U4 is not numeric"),
    "objects": ((X.astype(object), Y), "an array of object is not numeric"),
    "dates": ((X, Y.astype("datetime64[D]")), "datetime64.* is not numeric"),
    "labels beyond one": ((X, Y + 1), "takes targets between 0 and 1, and they go from 1 to 2"),
    "inputs alone": ((X,), "a data set of 1 arrays"),
    "a word": ("heart.csv", "an item of str is not"),
    "a number": (5, "int is not a data set"),
    "a loader": (DataLoader(Items(X, Y)), "DataLoader is not a data set"),
    "a stream": (Unsized(), "Unsized is not a data set"),
}


@pytest.mark.parametrize("bad", BAD)
def test_data_that_cannot_be_trained_on_is_refused_with_site_and_hint(bad):
    dataset, text = BAD[bad]
    with pytest.raises(DataError, match=text) as caught:
        hanse.simulate(binary(), lambda site: (dataset, None), ["a"], rounds=1)
    assert "a:" in str(caught.value)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_test_data_that_is_inputs_only_is_refused():
    with pytest.raises(DataError, match="an item of ndarray is not"):
        hanse.simulate(binary(), {"a": ((X, Y), X)}, rounds=1)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (Y + 0.5, "takes class numbers, and the targets hold [01].5"),
        (Y - 1, "a target is negative"),
        (np.where(np.arange(23) == 20, 5, Y), "a target is class 5, and the model has 2 classes"),
    ],
)
def test_class_numbers_that_are_none_are_refused(labels, text):
    with pytest.raises(DataError, match=text) as caught:
        hanse.simulate(classes(lambda: tabular(2)), {"a": ((X, labels), None)}, rounds=1)
    assert caught.value.hint


ODD = {
    "three outputs for one target": (lambda: tabular(3), nn.BCEWithLogitsLoss(), Y, r"\(2, 3\)"),
    "two outputs would broadcast": (lambda: tabular(2), nn.MSELoss(), Y * 1.0, "Using a target"),
    "a flat output and a column": (
        lambda: nn.Sequential(tabular(1), nn.Flatten(0)),
        nn.MSELoss(),
        Y.reshape(-1, 1) * 1.0,
        "Using a target size",
    ),
    "one output for classes": (lambda: tabular(1), nn.CrossEntropyLoss(), Y, r"\(2, 1\)"),
    "an LSTM's pair": (lambda: nn.LSTM(FEATURES, 1), nn.MSELoss(), Y * 1.0, "output tuple"),
}


@pytest.mark.parametrize("odd", ODD)
def test_an_output_that_does_not_fit_the_loss_is_told_before_training(odd):
    model, loss, y, text = ODD[odd]
    with pytest.raises(TaskError, match=text) as caught:
        hanse.simulate(TorchTask(model=model, loss=loss), {"a": ((X, y), None)}, rounds=1)
    assert str(caught.value).startswith("a: model output")
    assert caught.value.site == "a"
    assert caught.value.hint


@pytest.mark.parametrize("metric", ["auc", "average_precision", "precision", "recall", "mse"])
def test_a_metric_that_does_not_fit_the_output_is_told_before_training(metric):
    task = classes(lambda: tabular(3), metrics=[hanse.metrics.METRICS[metric]])
    with pytest.raises(TaskError, match=f"does not fit the metric {metric}"):
        hanse.simulate(task, {"a": ((X, Y), (X, Y))}, rounds=1)


def test_a_model_that_does_not_take_the_inputs_is_told_with_the_users_line():
    with pytest.raises(TaskError, match="the model on a first batch at a: RuntimeError") as caught:
        hanse.simulate(binary(lambda: nn.Linear(5, 1)), {"a": ((X, Y), None)}, rounds=1)
    assert "look at" in caught.value.hint
