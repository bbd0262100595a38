import pickle

import pytest
import torch

from boxwright.checkpoint import FORMAT, VERSION, Checkpoint, load_checkpoint, save_checkpoint
from boxwright.inference.predictor import Detector
from boxwright.recipes import load_recipe
from boxwright.structures import Classes

TINY = ["model.backbone=resnet18", "model.fpn.channels=16", "model.head.stem_channels=[16]", "data.resize.mode=none"]


@pytest.fixture(scope="module")
def checkpoint():
    """A small detector with random weights, as a finished run leaves it."""
    recipe = load_recipe("fcos-small", TINY)
    torch.manual_seed(0)
    model = recipe.build_model(2)
    model.mean_positives.fill_(37.0)
    training = {"progress": {"step": 3, "sums": {"loss": 1.5}}, "precision": "bf16", "names": ["a", None, True]}
    return Checkpoint(recipe, Classes(("cat", "dog"), (17, 3)), model.state_dict(), 0.25, {"AP": 0.5}, training)


@pytest.fixture
def path(checkpoint, tmp_path):
    save_checkpoint(checkpoint, tmp_path / "last.pt")
    return tmp_path / "last.pt"


class TestRoundTrip:
    def test_everything_comes_back(self, checkpoint, path):
        loaded = load_checkpoint(path)
        assert loaded.recipe == checkpoint.recipe
        assert loaded.classes == checkpoint.classes
        assert loaded.weights.keys() == checkpoint.weights.keys()
        assert all(torch.equal(loaded.weights[key], value) for key, value in checkpoint.weights.items())
        assert (loaded.score_threshold, loaded.metrics) == (0.25, {"AP": 0.5})
        assert loaded.training == checkpoint.training

    def test_the_model_is_the_one_that_was_saved_in_evaluation_mode(self, checkpoint, path):
        model = load_checkpoint(path).build()
        assert not model.training
        assert model.mean_positives == 37
        state = model.state_dict()
        assert all(torch.equal(state[key], value) for key, value in checkpoint.weights.items())

    def test_nothing_in_the_file_needs_trust(self, path):
        data = torch.load(path, weights_only=True)
        assert data["format"] == FORMAT
        assert data["classes"] == {"names": ["cat", "dog"], "ids": [17, 3]}

    def test_building_fetches_no_pretrained_weights(self, checkpoint, tmp_path, monkeypatch):
        recipe = load_recipe("fcos-small", [*TINY, "model.backbone.weights=IMAGENET1K_V1"])
        save_checkpoint(Checkpoint(recipe, checkpoint.classes, checkpoint.weights), tmp_path / "w.pt")
        monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_a, **_s: pytest.fail("fetched"))
        monkeypatch.setattr(
            "torchvision.models._api.load_state_dict_from_url", lambda *_a, **_s: pytest.fail("fetched")
        )
        built = load_checkpoint(tmp_path / "w.pt").build().state_dict()
        assert all(torch.equal(built[name], value) for name, value in checkpoint.weights.items())

    def test_no_partial_file_is_left(self, path):
        assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


class TestDetector:
    def test_speaks_the_users_classes_and_keeps_no_graph(self, checkpoint):
        image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
        detector = Detector(checkpoint, device="cpu")
        assert detector.score_threshold == 0.25
        (found,) = detector.predict(image, score=0.0)
        assert len(found) > 0
        assert found.classes == checkpoint.classes
        assert not found.boxes.requires_grad
        assert not found.scores.requires_grad


class TestFailures:
    def test_a_failed_write_leaves_the_old_file_whole_and_no_partial_one(self, checkpoint, path, monkeypatch):
        before = path.read_bytes()

        def full(_data, target):
            target.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(OSError, match=r"could not write .*last\.pt.*unchanged"):
            save_checkpoint(checkpoint, path)
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == ["last.pt"]

    def test_code_in_a_file_is_refused_and_does_not_run(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return (open, (str(tmp_path / "ran"), "w"))

        torch.save({"format": FORMAT, "version": VERSION, "weights": Trap()}, tmp_path / "trap.pt")
        (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap()))
        for name in ("trap.pt", "plain.pt"):
            with pytest.raises(ValueError, match=rf"{name} is not a boxwright checkpoint"):
                load_checkpoint(tmp_path / name)
        assert not (tmp_path / "ran").exists()

    def test_missing_files_and_folders_are_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"none\.pt: no such file"):
            load_checkpoint(tmp_path / "none.pt")
        with pytest.raises(ValueError, match=r"is a folder without weights/best\.pt"):
            load_checkpoint(tmp_path)

    def test_a_run_folder_stands_for_its_best_weights(self, checkpoint, path, tmp_path):
        (tmp_path / "run" / "weights").mkdir(parents=True)
        path.rename(tmp_path / "run" / "weights" / "best.pt")
        assert load_checkpoint(tmp_path / "run").classes == checkpoint.classes

    @pytest.mark.parametrize("part", [0.0, 0.3, 0.999])
    def test_a_broken_off_file_is_named(self, path, part):
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(ValueError, match=r"last\.pt is not a boxwright checkpoint"):
            load_checkpoint(path)

    @pytest.mark.parametrize("other", [{"model": {}}, torch.zeros(3), {"weights": {}, "format": "something"}])
    def test_a_file_of_something_else_is_named(self, tmp_path, other):
        torch.save(other, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=r"other\.pt is not a boxwright checkpoint"):
            load_checkpoint(tmp_path / "other.pt")

    def test_a_newer_version_says_to_upgrade(self, path):
        data = torch.load(path, weights_only=True)
        torch.save({**data, "version": VERSION + 1}, path)
        with pytest.raises(ValueError, match=f"version {VERSION + 1}, this boxwright reads {VERSION}; upgrade"):
            load_checkpoint(path)

    def test_a_recipe_that_this_version_does_not_know_names_the_key(self, path):
        data = torch.load(path, weights_only=True)
        data["recipe"]["optim"]["learning"] = 1
        torch.save(data, path)
        with pytest.raises(ValueError, match=r"last\.pt: optim\.learning: unknown key"):
            load_checkpoint(path)


class TestDamage:
    @pytest.fixture
    def run(self, checkpoint, tmp_path):
        folder = tmp_path / "run" / "weights"
        folder.mkdir(parents=True)
        for name in ("last.pt", "best.pt"):
            save_checkpoint(checkpoint, folder / name)
        return folder

    @staticmethod
    def flip(path, share):
        data = bytearray(path.read_bytes())
        data[int(len(data) * share)] ^= 1
        path.write_bytes(data)

    @pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.7, 0.9])
    def test_a_flipped_bit_is_noticed_and_the_other_file_of_the_run_is_named(self, run, share):
        self.flip(run / "last.pt", share)
        with pytest.raises(
            ValueError, match=rf"last\.pt .*damaged: .*; take {run / 'best.pt'} instead, for --resume too"
        ):
            load_checkpoint(run / "last.pt")
        load_checkpoint(run / "best.pt")

    def test_a_file_that_is_damaged_itself_is_not_named_as_the_one_to_take(self, run):
        self.flip(run / "last.pt", 0.5)
        self.flip(run / "best.pt", 0.5)
        with pytest.raises(ValueError, match=r"best\.pt .*damaged: .*; take another copy of it"):
            load_checkpoint(run.parent)

    def test_an_empty_file_is_damaged(self, run):
        (run / "best.pt").write_bytes(b"")
        with pytest.raises(ValueError, match=r"best\.pt .*damaged: it is empty; take .*last\.pt instead"):
            load_checkpoint(run.parent)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("classes", ["a"]), ("classes", {"names": [1], "ids": [1]}), ("classes", {"names": ["a"], "ids": "1"}),
         ("weights", [1]), ("weights", {"a": "b"}), ("weights", {1: torch.ones(1)}), ("score_threshold", "x"),
         ("score_threshold", 7.0), ("metrics", [1]), ("training", "x"), ("origin", 3), ("recipe", [[]]),
         ("recipe", {"model": {"name": [[]]}}), ("version", [[]]), ("classes", {"names": ["a", "a"], "ids": [1, 2]})],
    )  # fmt: skip
    def test_a_part_of_another_kind_is_one_sentence(self, path, key, value):
        data = torch.load(path, weights_only=True)
        torch.save({**data, key: value}, path)
        with pytest.raises(ValueError, match=r"last\.pt"):
            load_checkpoint(path)

    def test_weights_that_are_no_numbers_are_refused(self, checkpoint, tmp_path):
        weights = {**checkpoint.weights, next(iter(checkpoint.weights)): torch.tensor([float("nan")])}
        save_checkpoint(Checkpoint(checkpoint.recipe, checkpoint.classes, weights), tmp_path / "a.pt")
        with pytest.raises(ValueError, match=r"a\.pt: weights that are not finite numbers"):
            load_checkpoint(tmp_path / "a.pt")
