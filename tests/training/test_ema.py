import pytest
import torch
from torch import nn

from boxwright.checkpoint import load_checkpoint
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.training.optim import WeightAverage
from boxwright.training.run import train

pytestmark = pytest.mark.usefixtures("without_charts")


def network(value=0.0):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    return model


def weights(average):
    return {name: value.clone() for name, value in average.state_dict().items()}


def test_starts_as_a_copy_of_its_own_that_is_not_trained():
    model = network(1.0).train()
    average = WeightAverage(model, 0.9)
    assert not average.model.training
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
    model[0].weight.data.fill_(5.0)
    assert (average.state_dict()["0.weight"] == 1).all()
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_follows_its_rule_with_a_decay_that_ramps_up():
    model = network(0.0)
    average = WeightAverage(model, 0.9)
    expected = 0.0
    for update in range(1, 200):
        for name, tensor in model.state_dict().items():
            if name != "1.num_batches_tracked":
                tensor.fill_(float(update))
        average.update(model)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
        assert average.state_dict()["0.bias"].tolist() == pytest.approx([expected] * 2, rel=1e-5)
    assert average.updates == 199


def test_soon_forgets_the_random_start():
    average = WeightAverage(network(100.0), 0.999)
    for _ in range(30):
        average.update(network(1.0))
    assert average.state_dict()["0.weight"].max() < 1.1  # 0.999 from the first step on would leave 97


def test_averages_statistics_and_copies_counters():
    model = network(0.0)
    average = WeightAverage(model, 0.5)
    model[1].running_mean.fill_(4.0)
    model[1].num_batches_tracked.fill_(7)
    average.update(model)
    state = average.state_dict()
    assert 0 < state["1.running_mean"][0] < 4
    assert state["1.num_batches_tracked"] == 7


def test_goes_on_from_a_checkpoint_as_if_it_had_never_stopped():
    models = [network(float(value)) for value in range(1, 7)]
    whole, first = WeightAverage(network(), 0.9), WeightAverage(network(), 0.9)
    for model in models:
        whole.update(model)
    for model in models[:3]:
        first.update(model)
    second = WeightAverage(network(9.0), 0.9)
    second.model.load_state_dict(weights(first))
    second.updates = first.updates
    for model in models[3:]:
        second.update(model)
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in second.state_dict().items())


def test_has_the_keys_of_the_model():
    model = network()
    assert WeightAverage(model, 0.9).state_dict().keys() == model.state_dict().keys()


@pytest.mark.e2e
def test_both_checkpoints_of_a_run_hold_the_average_for_use_and_the_trained_weights_for_resume(tmp_path):
    write_shapes(tmp_path / "data", 4, 2, "voc", ShapesConfig(size=64), 0)
    settings = [
        "schedule.steps=4", "schedule.warmup_steps=0", "validation.times=1", "data.batch_size=2", "data.workers=0",
        "optim.reference_batch=2", "precision=fp32", "ema_decay=0.9", "model.fpn.channels=16",
        "model.head.stem_channels=[16]",
    ]  # fmt: skip
    result = train("fcos-shapes", tmp_path / "data", overrides=settings, runs=tmp_path / "runs", device="cpu")
    for path in (result.best, result.last):
        checkpoint = load_checkpoint(path)
        average, trained = checkpoint.training["average"], checkpoint.training["model"]
        assert checkpoint.training["average_updates"] == 4
        assert checkpoint.weights.keys() == average.keys() == trained.keys()
        assert all(torch.equal(value, average[name]) for name, value in checkpoint.weights.items())
        learnt = [name for name in average if name.endswith("weight") and not torch.equal(average[name], trained[name])]
        assert len(learnt) > 10
        built = checkpoint.build().state_dict()
        assert all(torch.equal(value, average[name]) for name, value in built.items())
