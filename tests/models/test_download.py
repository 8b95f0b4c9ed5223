"""Models by name where there is no network."""

import socket
import sys
from types import ModuleType

import pytest
from torch import nn

from plica.models import load_model
from plica.models.adapt import LoadedModel
from plica.models.download import hub_or_cache
from plica.models.registry import FORMS, ModelForm


def no_network(*_, **__):
    raise OSError("Network is unreachable")


def test_without_a_network_the_hub_is_not_tried(monkeypatch):
    constants = ModuleType("huggingface_hub.constants")
    constants.HF_HUB_OFFLINE = False
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", no_network)
    with hub_or_cache() as asks_hub:
        assert not asks_hub
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    with hub_or_cache() as asks_hub:
        assert asks_hub
        assert not constants.HF_HUB_OFFLINE


def test_a_model_whose_normalisation_was_stated_is_not_warned_about(monkeypatch):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    form = ModelForm("silent:NAME", lambda *_: LoadedModel(net, says_normalisation=False))
    monkeypatch.setitem(FORMS, "silent:", form)
    with pytest.warns(UserWarning, match="silent:net does not say how it normalises; state it, as in silent:net@half"):
        load_model("silent:net")
    assert load_model("silent:net@half").normalises
    assert not load_model("silent:net@none").normalises
