"""Batches made as recordings of their shape are those that are made operation by operation, to the last bit."""

import pytest
import torch
from recorded_graph import RecordedGraph

from boxwright.data.dataset import Augmentation, DetectionDataset
from boxwright.data.drawn import DrawnCollate, DrawnDataset
from boxwright.data.formats.folder import open_folder
from boxwright.data.loader import load_collated
from boxwright.data.mosaic import Mosaic
from boxwright.data.sampler import StepSampler, aspects_of
from boxwright.data.stored import store_images, store_objects
from boxwright.data.synthetic.shapes import ShapesConfig, write_shapes
from boxwright.data.transforms import ColourJitter, Compose, HorizontalFlip, ScaleJitter
from boxwright.ops.image import ResizeRule
from boxwright.training.made_batches import BatchMaker, made_beside, shape_of
from boxwright.training.static_batch import tensors_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    data = write_shapes(tmp_path_factory.mktemp("shapes"), 7, 1, config=ShapesConfig(size=64))
    steps = Compose([ScaleJitter(0.6, 1.6), HorizontalFlip(), ColourJitter(0.2, 0.2, 0.2)])
    split = open_folder(data).splits["train"]
    rule = ResizeRule("fixed", height=48, width=64)
    images = DetectionDataset(split, rule, augmentation=Augmentation(steps, Mosaic(0.4)), cache=True)
    return images, store_images(images, CPU), store_objects(images)


def drawn_batches(source, count, *, few_shapes=True):
    images, stored, objects = source
    sampler = StepSampler(aspects_of(images), 4, seed=0, start=0, stop=count, mosaic=lambda _: True)
    samples = DrawnDataset(images, objects, send_images=False)
    return [*load_collated(samples, DrawnCollate(images, stored.starts, few_shapes=few_shapes), sampler, workers=0)]


def assert_equal(one, other):
    assert one.indices == other.indices
    for own, their in zip(tensors_of(one), tensors_of(other), strict=True):
        assert torch.equal(own, their)


def test_recorded_batches_are_those_made_operation_by_operation(source):
    _, stored, objects = source
    drawn, graph = drawn_batches(source, 40), RecordedGraph()
    make = BatchMaker(CPU, stored.pixels, objects, graph)
    found = [*made_beside(drawn, make, CPU)]
    assert graph.replayed > 15
    assert graph.recorded <= len({shape_of(one) for one in drawn}) < 12
    for one, own in zip(drawn, found, strict=True):  # after all were made: none was overwritten
        assert_equal(own, one.to(CPU, stored.pixels, objects))


def test_more_tiles_and_larger_windows_show_nothing(source):
    _, stored, objects = source
    padded, plain = drawn_batches(source, 8), drawn_batches(source, 8, few_shapes=False)
    assert any(len(one.tiles.whole) > len(other.tiles.whole) for one, other in zip(padded, plain, strict=True))
    assert {len(one.tiles.whole) for one in padded if not one.tiles.exact} <= {4, 8, 16}
    for one, other in zip(padded, plain, strict=True):
        one, other = (batch.to(CPU, stored.pixels, objects) for batch in (one, other))
        assert_equal(one._replace(images=other.images), other)
        assert (one.images.pixels.int() - other.images.pixels.int()).abs().max() <= 1  # sums of another length


def test_what_cannot_be_recorded_is_made_operation_by_operation_from_then_on(source):
    _, stored, objects = source

    class Refusing(RecordedGraph):
        def __call__(self, work):
            self.recorded += 1
            raise RuntimeError("no")

    drawn, graph = drawn_batches(source, 30), Refusing()
    lines = []
    make = BatchMaker(CPU, stored.pixels, objects, graph, lines.append)
    for one in drawn:
        assert_equal(make(one), one.to(CPU, stored.pixels, objects))
    assert graph.recorded == 1
    assert lines == ["CUDA graphs: batches cannot be captured (no): they are made operation by operation"]
    full = RecordedGraph(room=False)
    make = BatchMaker(CPU, stored.pixels, objects, full)
    assert [make(one) for one in drawn[:8]]
    assert full.recorded == 0
