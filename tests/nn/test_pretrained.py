"""Pretrained weights go into a network that stands: from names, files and timm, whatever its norms have become."""

from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from boxwright.nn import pretrained
from boxwright.nn.backbones import Backbone
from boxwright.nn.box_head import StageHead
from boxwright.nn.pretrained import load_pretrained
from boxwright.nn.resnet import ResNetVariant


def loaded(name, weights, *levels, **settings):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    backbone = Backbone(name, *levels, **settings)
    load_pretrained(backbone, weights)
    return backbone


class TestWeights:
    def file(self, folder, name="resnet18", **changes):
        torch.manual_seed(5)
        network = torchvision.models.get_model(name, weights=None)
        state = {**network.state_dict(), **changes}
        torch.save(state, folder / "own.pth")
        return folder / "own.pth", state

    def test_from_a_local_file(self, tmp_path):
        path, state = self.file(tmp_path)
        own = loaded("resnet18", str(path)).body.state_dict()
        assert all(torch.equal(own[key], state[key]) for key in own)

    @pytest.mark.parametrize("shape", ["module", "nested", "half", "beside", "lightning", "safetensors", "ema"])
    def test_in_whatever_shape_a_trainer_wrote_them(self, tmp_path, shape):
        _, state = self.file(tmp_path)
        file = tmp_path / "own.ckpt"
        content = {
            "module": {f"module.{key}": value for key, value in state.items()},
            "nested": {"epoch": 3, "checkpoint": {"state_dict": {"module": state}}},
            "half": {"model": {key: value.half() if value.is_floating_point() else value
                               for key, value in state.items()}},
            "beside": {"net": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(7)}}}, "scaler": {"scale": 2.0}},
            "lightning": {"state_dict": {f"model.encoder.net.{key}": value for key, value in state.items()}},
            "ema": {"model": {key: value + 1 for key, value in state.items()}, "ema": {"module": state}},
            "safetensors": None,
        }[shape]  # fmt: skip
        if content is None:
            file = file.with_suffix(".safetensors")
            save_file({key: value.contiguous() for key, value in state.items()}, file)
        else:
            torch.save(content, file)
        own = loaded("resnet18", str(file)).body.state_dict()
        tolerance = 1e-3 if shape == "half" else 0
        for key, value in own.items():
            torch.testing.assert_close(value, state[key], rtol=tolerance, atol=tolerance)

    def test_of_a_detector_are_refused_with_the_way_to_start_from_it(self, tmp_path):
        path, state = self.file(tmp_path)
        detector = {f"backbone.{key}": value for key, value in state.items()}
        torch.save({"state_dict": {**detector, "neck.lateral_convs.0.conv.weight": torch.ones(1)}}, path)
        with pytest.raises(ValueError, match=r"own\.pth: it holds a detector; start from it with --weights"):
            loaded("resnet18", str(path))

    def test_from_a_file_with_another_classifier(self, tmp_path):
        path, state = self.file(tmp_path, **{"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)})
        own = loaded("resnet18", str(path)).body.state_dict()
        assert torch.equal(own["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])

    def test_of_another_network_are_refused_by_name(self, tmp_path):
        path, _ = self.file(tmp_path, "mobilenet_v3_large")
        with pytest.raises(ValueError, match=r"own\.pth: not those of resnet18, \d+ entries missing"):
            loaded("resnet18", str(path))

    def test_that_are_missing_or_broken_are_refused_by_name(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"none\.pth: no such file"):
            loaded("resnet18", str(tmp_path / "none.pth"))
        (tmp_path / "text.pth").write_text("not weights")
        with pytest.raises(ValueError, match=r"text\.pth: not a file of plain tensors"):
            loaded("resnet18", str(tmp_path / "text.pth"))

    def test_that_torchvision_does_not_know_are_refused_with_those_it_knows(self):
        with pytest.raises(ValueError, match=r"no weights 'IMAGENET22K'; torchvision has \['IMAGENET1K_V1'\]"):
            loaded("resnet18", "IMAGENET22K")

    @pytest.mark.parametrize("error", [URLError("no route to host"), OSError("network is unreachable")])
    def test_without_network_one_sentence_says_what_to_fetch_and_where_to_put_it(self, monkeypatch, error):
        def unreachable(*_arguments, **_settings):
            raise error

        monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
        with pytest.raises(
            OSError, match=r"no network for .* resnet18: fetch https://\S+\.pth .*backbone\.weights=FILE"
        ):
            loaded("resnet18", "IMAGENET1K_V1")

    def test_of_timm_from_a_local_file(self, tmp_path):
        timm = pytest.importorskip("timm")
        torch.manual_seed(5)
        network = timm.create_model("resnet18")
        torch.save(network.state_dict(), tmp_path / "timm.pth")
        own = loaded("timm/resnet18", str(tmp_path / "timm.pth")).body.state_dict()
        assert all(torch.equal(own[key], value) for key, value in network.state_dict().items() if key in own)
        assert len(own) > 100

    def test_of_timm_without_network_give_one_sentence(self, monkeypatch):
        pytest.importorskip("timm")
        import timm.models._builder as builder

        def unreachable(*_arguments, **_settings):
            raise OSError("network is unreachable")

        monkeypatch.setattr(builder, "load_pretrained", unreachable)
        with pytest.raises(OSError, match=r"no weights for timm/resnet18: .*backbone\.weights=FILE"):
            loaded("timm/resnet18", "pretrained")

    def test_of_timm_that_are_missing_are_refused_by_name(self, tmp_path):
        pytest.importorskip("timm")
        with pytest.raises(FileNotFoundError, match=r"none\.pth: no such file"):
            loaded("timm/resnet18", str(tmp_path / "none.pth"))

    @pytest.mark.parametrize("norm", ["frozen_bn", "gn", "none", "sync_bn"])
    def test_reach_a_network_whose_norms_are_others(self, tmp_path, norm):
        path, state = self.file(tmp_path)
        own = loaded("resnet18", str(path), norm=norm, frozen_stages=1).body.state_dict()
        assert all(torch.equal(own[key], state[key]) for key in own)
        assert "layer4.1.conv2.weight" in own
        assert ("layer4.1.bn2.running_mean" in own) == (norm in ("frozen_bn", "sync_bn"))
        assert ("layer4.1.bn2.weight" in own) == (norm != "none")

    def test_of_a_network_that_ends_before_its_last_stage_go_to_the_head_too(self, tmp_path):
        path, state = self.file(tmp_path, "resnet50")
        backbone, head = Backbone("resnet50", ("c4",)), StageHead("resnet50", ResNetVariant(), "frozen_bn")
        load_pretrained(torch.nn.Sequential(backbone, head), str(path))
        assert torch.equal(head.stage[2].conv3.weight, state["layer4.2.conv3.weight"])
        assert torch.equal(backbone.body.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])

    def test_change_no_random_number_that_is_drawn_later(self, tmp_path):
        path, _ = self.file(tmp_path)
        loaded("resnet18", None)
        without = torch.rand(3)
        loaded("resnet18", str(path))
        assert torch.equal(torch.rand(3), without)


def test_what_a_download_says_goes_to_standard_error(monkeypatch, capsys):
    def fetched(url, *_, **__):
        print("Downloading: x")
        return torchvision.models.resnet18().state_dict()

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fetched)
    pretrained._torchvision_network("resnet18", "IMAGENET1K_V1")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "Downloading: x\n")
