"""State of this machine's hardware: temperature, throttling, power. Linux; files of the kernel only.

A robot's board that is too hot, or has a weak power supply, runs slower without any error. The kernel
knows: it shows temperatures and their limits, what slows the processor down, and, on a Raspberry Pi, what
the firmware has noticed. A machine that shows nothing of this, such as a container, has no state.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

# In °C, for a sensor whose limits are not known, or higher. A Raspberry Pi begins to slow down at 80 to 85;
# its only limit in the kernel is 110, where it is switched off.
_HOT: Final = 85.0
_BELOW_CRITICAL: Final = 10.0
_POSSIBLE: Final = (0.0, 150.0)  # a sensor that is off, or of another kind, shows something else
# Not a sensor: the power chip of older Jetsons always shows 100 °C.
_IGNORED_SENSORS: Final = ("PMIC-Die",)
_COOLER: Final = "give it a heat sink, a fan or less work"
# Cooling by slowing down. Fans are cooling devices, too.
_SLOWS_DOWN: Final = re.compile(r"cpu|gpu|processor|devfreq", re.IGNORECASE)
# With these drivers, the governor `powersave` is the usual one, and follows the load.
_DRIVERS_THAT_FOLLOW_THE_LOAD: Final = ("intel_pstate", "amd-pstate-epp", "amd-pstate")
# Bits of the Raspberry Pi's firmware, the same as of `vcgencmd get_throttled`: now, and since the start.
_SINCE_START: Final = 16
_RASPBERRY_PI: Final = {
    0: ("the voltage is too low", "take the official power supply and a short cable"),
    1: ("the clock is limited", _COOLER),
    2: ("the processor is throttled", _COOLER),
    3: ("the temperature limit slows the processor down", _COOLER),
}


class Condition(NamedTuple):
    """One fact about the hardware. ``remedy``: what to do about it, "" if nothing is wrong."""

    text: str
    remedy: str = ""


def read_hardware(root: str = "/") -> Iterator[Condition]:
    """Yield what a machine shows of its hardware; nothing where it shows nothing.

    ``root`` has the folders ``sys``, ``var`` and ``etc`` of the machine. Files that are missing, cannot be
    read or hold something else count as not there; nothing is raised.
    """
    yield from _temperature(root)
    yield from _cooling(root)
    yield from _raspberry_pi(root)
    yield from _jetson(root)
    yield from _clock(root)


# --------------------------------------------------------------------------- temperature


def _temperature(root: str) -> Iterator[Condition]:
    """Yield the highest temperature, and which sensors have reached a limit."""
    sensors: list[tuple[float, str, float]] = []  # °C, name, limit
    for zone in _paths(root, "sys/class/thermal/thermal_zone*"):
        name = _text(f"{zone}/type") or os.path.basename(zone)
        temperature = _celsius(f"{zone}/temp")
        if temperature is not None and name not in _IGNORED_SENSORS:
            sensors.append((temperature, name, _limit(zone)))
    if not sensors:
        return
    hottest, name, _ = max(sensors)
    of = f", the hottest of {len(sensors)} sensors" if len(sensors) > 1 else ""
    yield Condition(f"temperature: {hottest:.0f} °C ({name}{of})")
    hot = [
        f"{name} has {temperature:.0f} °C, and may slow down from {limit:.0f} °C on"
        for temperature, name, limit in sensors
        if temperature >= limit
    ]
    if hot:
        yield Condition(f"this machine is hot: {', '.join(hot)}", _COOLER)


def _limit(zone: str) -> float:
    """Return the temperature from which on a sensor is hot."""
    passive, critical = [], []
    for path in _paths(zone, "trip_point_*_type"):
        temperature = _celsius(f"{path.removesuffix('_type')}_temp")
        if temperature is None:
            continue
        kind = _text(path)
        if kind == "passive":
            passive.append(temperature)
        elif kind in ("hot", "critical"):
            critical.append(temperature - _BELOW_CRITICAL)
    return min(passive) if passive else min([_HOT, *critical])


def _celsius(path: str) -> float | None:
    number = _number(path)
    if number is None or not _POSSIBLE[0] < number / 1000 < _POSSIBLE[1]:
        return None
    return number / 1000


def _cooling(root: str) -> Iterator[Condition]:
    """Yield what the kernel slows down just now to keep it cool."""
    slowed = set()
    for device in _paths(root, "sys/class/thermal/cooling_device*"):
        kind = _text(f"{device}/type")
        if (
            _SLOWS_DOWN.search(kind)
            and "fan" not in kind.lower()
            and (_number(f"{device}/cur_state") or 0) > 0
        ):
            slowed.add(kind)
    if slowed:
        yield Condition(
            f"the kernel slows the processor down against heat ({', '.join(sorted(slowed))})", _COOLER
        )


# --------------------------------------------------------------------------- boards


def _raspberry_pi(root: str) -> Iterator[Condition]:
    """Yield what the firmware of a Raspberry Pi has noticed."""
    # Of a Raspberry Pi 5, the folders have longer names.
    for path in _paths(root, "sys/devices/platform/soc*/soc*firmware/get_throttled"):
        try:
            bits = int(_text(path), 16)
        except ValueError:
            continue
        if not bits:
            yield Condition("Raspberry Pi: neither throttled nor short of voltage since its start")
        for bit, (fault, remedy) in _RASPBERRY_PI.items():
            if bits >> bit & 1:
                yield Condition(f"Raspberry Pi: {fault}", remedy)
            elif bits >> (bit + _SINCE_START) & 1:
                yield Condition(f"Raspberry Pi: not now, but since its start: {fault}", remedy)
        return
    for folder in _paths(root, "sys/class/hwmon/hwmon*"):  # not in the kernel of Raspberry Pi OS
        if _text(f"{folder}/name") == "rpi_volt" and _number(f"{folder}/in0_lcrit_alarm"):
            fault, remedy = _RASPBERRY_PI[0]
            yield Condition(f"Raspberry Pi: {fault}", remedy)


def _jetson(root: str) -> Iterator[Condition]:
    """Yield the power mode of a Jetson, and whether it drew too much current."""
    found = re.search(r"\bpmode:(\d+)", _text(os.path.join(root, "var/lib/nvpmodel/status")))
    if found is not None:
        number = int(found[1])
        names = re.findall(
            r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>",
            _text(os.path.join(root, "etc/nvpmodel.conf")),
            re.MULTILINE,
        )
        name = next((name for each, name in names if int(each) == number), "")
        mode = f"{number}, {name}" if name else f"{number}"
        yield Condition(f"power mode of the Jetson: {mode} (`sudo nvpmodel -q`; `-m` takes another one)")
    events = sum(_number(path) or 0 for path in _paths(root, "sys/class/hwmon/hwmon*/oc*_event_cnt"))
    if events:
        yield Condition(
            f"the Jetson drew too much current {events} time{'s' if events > 1 else ''} since its start; "
            "it was slowed down then",
            "take a stronger power supply or a lower power mode",
        )


# --------------------------------------------------------------------------- clock


def _clock(root: str) -> Iterator[Condition]:
    """Yield the clock of the fastest core of each kind."""
    fastest: dict[tuple[int, str, str, int], int] = {}  # kind of core → the fastest clock
    for policy in _paths(root, "sys/devices/system/cpu/cpufreq/policy*"):
        most = _number(f"{policy}/cpuinfo_max_freq")
        now = _number(f"{policy}/scaling_cur_freq")
        if not most or now is None:
            continue
        allowed = min(most, _number(f"{policy}/scaling_max_freq") or most)
        kind = (most, _text(f"{policy}/scaling_governor"), _text(f"{policy}/scaling_driver"), allowed)
        fastest[kind] = max(now, fastest.get(kind, 0))
    for (most, governor, driver, allowed), now in sorted(fastest.items(), reverse=True):
        notes = [f"governor {governor}"] if governor else []
        if allowed < most:
            notes.append(f"limited, {_gigahertz(most)} are possible")
        what = f" ({'; '.join(notes)})" if notes else ""
        yield Condition(f"processor clock: {_gigahertz(now)} of {_gigahertz(allowed)} GHz{what}")
        if governor == "powersave" and driver not in _DRIVERS_THAT_FOLLOW_THE_LOAD:
            yield Condition(
                "the governor powersave keeps the processor at its lowest clock",
                "echo schedutil | sudo tee /sys/devices/system/cpu/cpufreq/policy*/scaling_governor",
            )


def _gigahertz(kilohertz: int) -> str:
    return f"{kilohertz / 1e6:.1f}"


# --------------------------------------------------------------------------- files


def _paths(folder: str, pattern: str) -> list[str]:
    """Return the paths below a folder that fit a pattern, in the order of their numbers."""
    found = glob.glob(os.path.join(glob.escape(folder), pattern))
    return sorted(found, key=lambda path: (len(path), path))


def _text(path: str) -> str:
    """Return what a file says; "" if it cannot be read, as a sensor whose part is switched off."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip().strip("\0")
    except OSError:
        return ""


def _number(path: str) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None
