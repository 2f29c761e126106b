"""What a viewer node reads from its environment, and how it tells what an input is."""

from __future__ import annotations

import pytest

from dora.nodes.rerun.settings import (
    RobotSetting,
    SettingError,
    ViewerSettings,
    grpc_url,
    host_and_port,
    read_settings,
)
from dora.observe.preview.drawable import PRIMITIVES, UnknownPrimitive, primitive_of


def test_an_empty_environment_opens_a_viewer() -> None:
    assert read_settings({}) == ViewerSettings(mode="SPAWN", address="127.0.0.1:9876", memory_limit="25%")


def test_every_setting_has_a_variable() -> None:
    settings = read_settings(
        {
            "OPERATING_MODE": "save",
            "RERUN_SERVER_ADDR": "robot:1234",
            "RERUN_WEB_PORT": "8080",
            "RERUN_SAVE": "run.rrd",
            "RERUN_MEMORY_LIMIT": "4GB",
            "README": "# Hello",
            "IMAGE_WIDTH": "320",
            "IMAGE_HEIGHT": "240",
        }
    )
    assert settings == ViewerSettings(
        mode="SAVE",
        address="robot:1234",
        web_port=8080,
        file="run.rrd",
        memory_limit="4GB",
        readme="# Hello",
        image_size=(320, 240),
    )


@pytest.mark.parametrize("variable", ["IMAGE_WIDTH", "IMAGE_HEIGHT"])
def test_a_width_or_a_height_alone_is_no_size_of_images(variable: str) -> None:
    assert read_settings({variable: "640"}).image_size is None


def test_a_file_alone_means_to_save() -> None:
    assert read_settings({"RERUN_SAVE": "run.rrd"}).mode == "SAVE"
    assert read_settings({"RERUN_SAVE": "run.rrd", "OPERATING_MODE": "SPAWN"}).mode == "SPAWN"


def test_an_unknown_mode_is_a_warning() -> None:
    settings = read_settings({"OPERATING_MODE": "SPWAN"})
    assert settings.mode == "SPAWN"
    assert settings.warnings == (
        "OPERATING_MODE is `SPWAN`, which counts as `SPAWN`; did you mean `SPAWN`?",
    )


def test_robots_have_a_place() -> None:
    settings = read_settings(
        {
            "arm_urdf": "arm.urdf",
            "BASE_URDF": "base.urdf",
            "BASE_transform": "1 2 3",
            "so101_urdf": "so_arm101_description",
            "so101_transform": "0. 0. 0.5 1. 0. 0. 0.",
        }
    )
    assert settings.robots == (
        RobotSetting("BASE", "base.urdf", (1, 2, 3)),
        RobotSetting("arm", "arm.urdf"),
        RobotSetting("so101", "so_arm101_description", (0, 0, 0.5), (0, 0, 0, 1)),
    )


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"arm_urdf": "a", "arm_transform": "1 2"}, "arm_transform is `1 2`; it has to be `x y z` or"),
        ({"arm_urdf": "a", "arm_transform": "1 2 z"}, "arm_transform is `1 2 z`"),
        ({"IMAGE_WIDTH": "wide"}, "IMAGE_WIDTH is `wide`; it has to be a whole number"),
        ({"RERUN_WEB_PORT": "0"}, "RERUN_WEB_PORT is `0`"),
    ],
)
def test_invalid_settings_are_reported(variables: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        read_settings(variables)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:9876", "rerun+http://127.0.0.1:9876/proxy"),
        ("http://robot:9876", "rerun+http://robot:9876/proxy"),
        ("https://robot:9876/proxy", "rerun+https://robot:9876/proxy"),
        ("rerun+http://robot:1/proxy", "rerun+http://robot:1/proxy"),
    ],
)
def test_addresses_become_urls(address: str, url: str) -> None:
    assert grpc_url(address) == url


def test_a_server_has_a_host_and_a_port() -> None:
    assert host_and_port("0.0.0.0:1234") == ("0.0.0.0", 1234)
    assert host_and_port("https://robot:1/proxy") == ("robot", 1)
    for address in ("localhost", "localhost:", "localhost:many", "localhost:99999"):
        with pytest.raises(SettingError, match="write a host and a port"):
            host_and_port(address)


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_metadata_chooses_the_primitive_and_wins_over_the_name(primitive: str) -> None:
    assert primitive_of("image", {"primitive": primitive}) == primitive
    assert primitive_of(f"left/{primitive}_2", {}) == primitive


def test_names_of_published_outputs_choose_a_primitive() -> None:
    assert primitive_of("bbox", {}) == "boxes2d"
    assert primitive_of("image_depth", {}) == "image"


@pytest.mark.parametrize(
    ("input_id", "metadata", "sentence"),
    [
        ("tick", {}, "its metadata has no `primitive`, and its name contains none; there are `image`,"),
        (
            "image",
            {"primitive": "boxes3"},
            "`boxes3`, which the viewer does not know; did you mean `boxes3d`?",
        ),
        ("image", {"primitive": 7}, "its `primitive` is `7`, which the viewer does not know; there are"),
    ],
)
def test_an_unknown_primitive_is_named(input_id: str, metadata: dict[str, object], sentence: str) -> None:
    with pytest.raises(UnknownPrimitive) as caught:
        primitive_of(input_id, metadata)
    assert sentence in str(caught.value)
