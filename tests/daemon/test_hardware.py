"""What a machine shows of its temperature, throttling and power. The folders are as machines have them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from dora.daemon.hardware import Condition, read_hardware

COOLER = "give it a heat sink, a fan or less work"
THROTTLED = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
ZONE = "sys/class/thermal/thermal_zone"

# Raspberry Pi OS on a Raspberry Pi 5: one sensor, five limits (of the fan, and where it is switched off).
PI_5 = {
    f"{ZONE}0/type": "cpu-thermal",
    f"{ZONE}0/temp": "51350",
    f"{ZONE}0/trip_point_0_type": "critical",
    f"{ZONE}0/trip_point_0_temp": "110000",
    f"{ZONE}0/trip_point_1_type": "active",
    f"{ZONE}0/trip_point_1_temp": "50000",
    f"{ZONE}0/trip_point_2_type": "active",
    f"{ZONE}0/trip_point_2_temp": "60000",
    "sys/class/thermal/cooling_device0/type": "pwm-fan",
    "sys/class/thermal/cooling_device0/cur_state": "1",
    "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "2400000",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "2400000",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1500000",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "ondemand",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_driver": "cpufreq-dt",
    THROTTLED: "0",
}

# JetPack 6 on a Jetson Orin: many sensors; one belongs to a part that is switched off, and cannot be read.
ORIN = {
    f"{ZONE}0/type": "cpu-thermal",
    f"{ZONE}0/temp": "48562",
    f"{ZONE}0/trip_point_0_type": "passive",
    f"{ZONE}0/trip_point_0_temp": "99000",
    f"{ZONE}0/trip_point_1_type": "critical",
    f"{ZONE}0/trip_point_1_temp": "104500",
    f"{ZONE}1/type": "gpu-thermal",
    f"{ZONE}1/temp": "46218",
    f"{ZONE}2/type": "cv0-thermal",
    f"{ZONE}8/type": "tj-thermal",
    f"{ZONE}8/temp": "49312",
    "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0",
    "sys/class/thermal/cooling_device0/cur_state": "0",
    "sys/class/hwmon/hwmon0/name": "soctherm_oc",
    "sys/class/hwmon/hwmon0/oc1_event_cnt": "0",
    "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": "2201600",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1728000",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "729600",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil",
    "sys/devices/system/cpu/cpufreq/policy4/cpuinfo_max_freq": "2201600",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_max_freq": "1728000",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "1420800",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "schedutil",
    "var/lib/nvpmodel/status": "pmode:0002 fmode:fan_mode_quiet",
    "etc/nvpmodel.conf": (
        "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MODE_30W >\n"
    ),
}

# A desk computer: limits of 0 mean none, and a network card whose sensor is off shows an error.
DESK = {
    f"{ZONE}0/type": "acpitz",
    f"{ZONE}0/temp": "27800",
    f"{ZONE}0/trip_point_0_type": "critical",
    f"{ZONE}0/trip_point_0_temp": "119000",
    f"{ZONE}1/type": "x86_pkg_temp",
    f"{ZONE}1/temp": "44000",
    f"{ZONE}1/trip_point_0_type": "passive",
    f"{ZONE}1/trip_point_0_temp": "0",
    f"{ZONE}1/trip_point_1_type": "passive",
    f"{ZONE}1/trip_point_1_temp": "-274000",
    f"{ZONE}2/type": "iwlwifi_1",
    "sys/class/thermal/cooling_device0/type": "Processor",
    "sys/class/thermal/cooling_device0/cur_state": "0",
    "sys/class/thermal/cooling_device9/type": "intel_powerclamp",
    "sys/class/thermal/cooling_device9/cur_state": "-1",
    **{
        f"sys/devices/system/cpu/cpufreq/policy{core}/{name}": value
        for core in range(8)
        for name, value in {
            "cpuinfo_max_freq": "4600000",
            "scaling_max_freq": "4600000",
            "scaling_cur_freq": f"{800000 + 100000 * core}",
            "scaling_governor": "powersave",
            "scaling_driver": "intel_pstate",
        }.items()
    },
}

Read = Callable[..., list[Condition]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Make the files of a machine, with changes, and read its hardware."""

    def read(files: Mapping[str, str], **changes: str) -> list[Condition]:
        for name, text in {**files, **changes}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return list(read_hardware(str(tmp_path)))

    return read


def warnings(found: list[Condition]) -> list[Condition]:
    return [condition for condition in found if condition.remedy]


def test_a_raspberry_pi_shows_temperature_voltage_and_clock(read: Read) -> None:
    assert read(PI_5) == [
        Condition("temperature: 51 °C (cpu-thermal)"),
        Condition("Raspberry Pi: neither throttled nor short of voltage since its start"),
        Condition("processor clock: 1.5 of 2.4 GHz (governor ondemand)"),
    ]


def test_a_raspberry_pi_is_hot_where_it_begins_to_slow_down(read: Read) -> None:
    (warning,) = warnings(read(PI_5, **{f"{ZONE}0/temp": "85200"}))
    assert warning == (
        "this machine is hot: cpu-thermal has 85 °C, and may slow down from 85 °C on",
        COOLER,
    )


def test_the_bits_of_the_firmware_say_what_is_wrong_now_and_what_was(read: Read) -> None:
    found = warnings(read(PI_5, **{THROTTLED: "50005"}))  # hexadecimal, without 0x
    assert found == [
        ("Raspberry Pi: the voltage is too low", "take the official power supply and a short cable"),
        ("Raspberry Pi: the processor is throttled", COOLER),
    ]
    found = warnings(read(PI_5, **{THROTTLED: "e0008"}))
    assert [text for text, _ in found] == [
        "Raspberry Pi: not now, but since its start: the clock is limited",
        "Raspberry Pi: not now, but since its start: the processor is throttled",
        "Raspberry Pi: the temperature limit slows the processor down",
    ]


def test_the_bits_are_found_where_older_boards_have_them(read: Read) -> None:
    (warning,) = warnings(read({"sys/devices/platform/soc/soc:firmware/get_throttled": "10000"}))
    assert warning.text == "Raspberry Pi: not now, but since its start: the voltage is too low"


def test_a_kernel_of_debian_shows_the_voltage_of_a_raspberry_pi(read: Read) -> None:
    files = {"sys/class/hwmon/hwmon1/name": "rpi_volt", "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1"}
    (warning,) = read(files)
    assert warning.text == "Raspberry Pi: the voltage is too low"


def test_a_jetson_shows_its_hottest_sensor_and_its_power_mode(read: Read) -> None:
    assert read(ORIN) == [
        Condition("temperature: 49 °C (tj-thermal, the hottest of 3 sensors)"),
        Condition("power mode of the Jetson: 2, MODE_30W (`sudo nvpmodel -q`; `-m` takes another one)"),
        Condition("processor clock: 1.4 of 1.7 GHz (governor schedutil; limited, 2.2 are possible)"),
    ]


def test_a_jetson_that_slows_down_says_why(read: Read) -> None:
    changes = {
        f"{ZONE}0/temp": "99500",
        "sys/class/thermal/cooling_device0/cur_state": "3",
        "sys/class/hwmon/hwmon0/oc1_event_cnt": "2",
    }
    texts = [text for text, _ in warnings(read(ORIN, **changes))]
    assert texts == [
        "this machine is hot: cpu-thermal has 100 °C, and may slow down from 99 °C on",
        "the kernel slows the processor down against heat (cpufreq-cpu0)",
        "the Jetson drew too much current 2 times since its start; it was slowed down then",
    ]


def test_an_older_jetson_is_not_hot_because_its_power_chip_always_shows_100(read: Read) -> None:
    files = {
        f"{ZONE}0/type": "CPU-therm",
        f"{ZONE}0/temp": "34000",
        f"{ZONE}4/type": "PMIC-Die",
        f"{ZONE}4/temp": "100000",
    }
    assert read(files) == [Condition("temperature: 34 °C (CPU-therm)")]


def test_a_desk_computer_has_no_warning(read: Read) -> None:
    assert read(DESK) == [
        Condition("temperature: 44 °C (x86_pkg_temp, the hottest of 2 sensors)"),
        Condition("processor clock: 1.5 of 4.6 GHz (governor powersave)"),
    ]


def test_the_governor_powersave_of_a_board_is_a_warning(read: Read) -> None:
    policy = "sys/devices/system/cpu/cpufreq/policy0"
    (warning,) = warnings(read(PI_5, **{f"{policy}/scaling_governor": "powersave"}))
    assert warning.text == "the governor powersave keeps the processor at its lowest clock"


def test_a_container_shows_nothing(read: Read, tmp_path: Path) -> None:
    for folder in ("sys/class/thermal", "sys/devices/system/cpu/cpufreq", "sys/class/hwmon"):
        (tmp_path / folder).mkdir(parents=True)
    assert read({}) == []
    assert list(read_hardware(str(tmp_path / "nowhere"))) == []


@pytest.mark.parametrize("text", ["", "unknown", "-40000", "655350000", "\0", "9" * 5000])
def test_a_sensor_without_a_temperature_is_left_out(read: Read, text: str) -> None:
    damaged = {name: text for name in PI_5 if name not in (f"{ZONE}0/type", THROTTLED)}
    assert warnings(read(PI_5, **damaged)) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_others_may_not_read_are_left_out(read: Read, tmp_path: Path) -> None:
    read(PI_5)
    (tmp_path / f"{ZONE}0/temp").chmod(0)
    assert "temperature" not in str(list(read_hardware(str(tmp_path))))
