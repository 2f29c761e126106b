"""The table of measures, and how the result files of a run become figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.runner import Run, RunFailed
from benchmarks.statistics import Figure, median, percentile, skipped_ticks, timer_errors_ns

KIB = 1024
MIB = 1024 * KIB
TIMER_PERIOD_NS = 10_000_000


@dataclass(frozen=True)
class Measure:
    """One row of the table.

    `at_least` is the goal as a factor of improvement: 6 for "six times faster", 1 / 0.6 for "0.6 of that".
    `against` names another measure of ours to compare with, for what upstream cannot run. With `lossless` a
    goal is only reached when ours lost no message at all: being fast by dropping is no merit.
    """

    name: str
    title: str
    unit: str
    at_least: float | None = None
    higher_is_better: bool = False
    against: str | None = None
    lossless: bool = False


@dataclass(frozen=True)
class Scenario:
    """One dataflow with its parameters; a run of it yields a figure for each of its measures.

    The nodes send `warm_up` and then `messages` messages of `size` bytes; environment variables tell them.
    `runs` is how often one repetition runs it, for what is short and noisy. `rclpy` has programs that do
    the same without dora, see `benchmarks.runner.run_programs`; empty where there is nothing to compare.
    """

    dataflow: str
    measures: tuple[Measure, ...]
    evaluate: Callable[["Scenario", Run], Mapping[str, Figure]]
    messages: int = 0
    warm_up: int = 0
    size: int = 0
    arguments: tuple[str, ...] = ()
    upstream_can: bool = True
    runs: int = 1
    rclpy: tuple[tuple[str, str], ...] = ()

    def scaled(self, factor: float) -> "Scenario":
        """Return the same scenario with fewer messages, for a quick look."""
        if factor == 1:
            return self
        return Scenario(
            **{
                **self.__dict__,
                "messages": max(10, int(self.messages * factor)) if self.messages else 0,
                "runs": 1,
            }
        )


def round_trip(scenario: Scenario, run: Run) -> dict[str, Figure]:
    result = run.result("ping")
    times_us = [nanoseconds / 1e3 for nanoseconds in result["times_ns"]]
    sent = scenario.warm_up + scenario.messages
    return _only(scenario, Figure(median(times_us), percentile(times_us, 99), sent, result["lost"]))


def throughput(scenario: Scenario, run: Run) -> dict[str, Figure]:
    result = run.result("receiver")
    rate = result["received"] * 1e9 / (result["last_ns"] - result["started_ns"])
    return _only(scenario, Figure(rate, None, scenario.messages, scenario.messages - result["received"]))


def _slowest_sink(scenario: Scenario, run: Run) -> dict[str, Figure]:
    """Take for each message the sink that got it last; one that any sink missed counts as lost only."""
    sinks = [
        {int(sequence): latency for sequence, latency in sink.items()} for sink in run.results("sink*")
    ]
    whole = set.intersection(*(set(sink) for sink in sinks))
    latencies_us = [
        max(sink[sequence] for sink in sinks) / 1e3
        for sequence in sorted(whole)
        if sequence >= scenario.warm_up
    ]
    sent = (scenario.warm_up + scenario.messages) * len(sinks)
    lost = sent - sum(len(sink) for sink in sinks)
    if not latencies_us:
        raise RunFailed(f"no message after the warm-up came to all sinks; {lost} of {sent} were lost")
    return _only(scenario, Figure(median(latencies_us), percentile(latencies_us, 99), sent, lost))


def _timer(_: Scenario, run: Run) -> dict[str, Figure]:
    arrivals_ns = run.result("clock")
    errors_ms = [error / 1e6 for error in timer_errors_ns(arrivals_ns, TIMER_PERIOD_NS)]
    lost = skipped_ticks(arrivals_ns, TIMER_PERIOD_NS)
    sent = len(arrivals_ns) + lost
    return {
        "timer-error-50": Figure(percentile(errors_ms, 50), None, sent, lost),
        "timer-error-99": Figure(percentile(errors_ms, 99), None, sent, lost),
    }


def _start_to_end(scenario: Scenario, run: Run) -> dict[str, Figure]:
    return _only(scenario, Figure(run.wall_s, None, 1, 0 if run.result("receiver") == [42] else 1))


def _steady(scenario: Scenario, run: Run) -> dict[str, Figure]:
    return _only(scenario, Figure(run.result("receiver")["cpu_ns"] / 1e6))


def _idle(_: Scenario, run: Run) -> dict[str, Figure]:
    return {"idle-cpu": Figure(run.cpu_s), "idle-memory": _memory(run)}


def _idle_with_arrow(scenario: Scenario, run: Run) -> dict[str, Figure]:
    return _only(scenario, _memory(run))


def _idle_with_links(_: Scenario, run: Run) -> dict[str, Figure]:
    return {"idle-links-cpu": Figure(run.cpu_s), "idle-links-memory": _memory(run)}


def _memory(run: Run) -> Figure:
    return Figure(median([node["pss_kib"] / KIB for node in run.results("idle*")]))


def _only(scenario: Scenario, figure: Figure) -> dict[str, Figure]:
    (measure,) = scenario.measures
    return {measure.name: figure}


def sized(size: int) -> str:
    if size >= MIB:
        return f"{size // MIB} MiB"
    return f"{size // KIB} KiB" if size >= KIB else f"{size} B"


def _name(prefix: str, size: int) -> str:
    return f"{prefix}-{sized(size).replace(' ', '').lower()}"


def _round_trips() -> list[Scenario]:
    table = [
        # size, messages, warm-up, goal
        (8, 2000, 200, 6),
        (4 * KIB, 2000, 200, 6),
        (64 * KIB, 2000, 200, 6),
        (1 * MIB, 1000, 100, 2),
        (4 * MIB, 200, 20, 8),
        (40 * MIB, 20, 3, 35),
    ]
    return [
        Scenario(
            dataflow="round_trip/dataflow.yml",
            measures=(Measure(_name("round-trip", size), f"round trip, {sized(size)}", "µs", goal),),
            evaluate=round_trip,
            messages=messages,
            warm_up=warm_up,
            size=size,
            rclpy=(("ping", "rclpy_ping.py"), ("echo", "rclpy_echo.py")),
        )
        for size, messages, warm_up, goal in table
    ]


_THROUGHPUT_OF_RCLPY = (("receiver", "rclpy_receiver.py"), ("sender", "rclpy_sender.py"))


def _throughputs(policy: str, title: str, goals: Mapping[int, float]) -> list[Scenario]:
    messages = {8: 20_000, 4 * KIB: 20_000, 64 * KIB: 20_000, 1 * MIB: 2_000, 4 * MIB: 300}
    return [
        Scenario(
            dataflow=f"throughput/{policy}.yml",
            measures=(
                Measure(
                    _name(f"throughput-{policy.replace('_', '-')}", size),
                    f"{title}, {sized(size)}",
                    "messages/s",
                    goals.get(size),
                    higher_is_better=True,
                    lossless=True,
                ),
            ),
            evaluate=throughput,
            messages=count,
            size=size,
            # Its publishers do not wait for a slow subscription as back-pressure does.
            rclpy=_THROUGHPUT_OF_RCLPY if policy == "drop_oldest" else (),
        )
        for size, count in messages.items()
    ]


SCENARIOS: tuple[Scenario, ...] = (
    *_round_trips(),
    *_throughputs(
        "drop_oldest",
        "throughput, queue of 20,000",
        {8: 2.5, 4 * KIB: 2.5, 64 * KIB: 2, 1 * MIB: 1, 4 * MIB: 5},
    ),
    *_throughputs("backpressure", "throughput, back-pressure", {}),
    Scenario(
        dataflow="latency/fan_out.yml",
        measures=(Measure("fan-out", "one to six at 200 Hz, 64 KiB, slowest receiver", "µs", 1.5),),
        evaluate=_slowest_sink,
        messages=400,
        warm_up=200,
        runs=3,
        size=64 * KIB,
    ),
    Scenario(
        dataflow="latency/chain.yml",
        measures=(Measure("chain", "chain of six relay nodes at 200 Hz, 4 KiB", "µs", 2.5),),
        evaluate=_slowest_sink,
        messages=400,
        warm_up=200,
        runs=3,
        size=4 * KIB,
    ),
    Scenario(
        dataflow="latency/one_operator.yml",
        measures=(Measure("one-operator", "one operator between two nodes at 200 Hz, 4 KiB", "µs"),),
        evaluate=_slowest_sink,
        messages=400,
        warm_up=200,
        runs=3,
        size=4 * KIB,
    ),
    Scenario(
        dataflow="latency/six_operators.yml",
        measures=(
            Measure(
                "six-operators",
                "six operators of one runtime, against one operator",
                "µs",
                1 / 1.3,
                against="one-operator",
            ),
        ),
        evaluate=_slowest_sink,
        messages=400,
        warm_up=200,
        runs=3,
        size=4 * KIB,
        upstream_can=False,
    ),
    Scenario(
        dataflow="timer/dataflow.yml",
        measures=(
            Measure("timer-error-50", "error of a 10 ms timer, median", "ms"),
            Measure("timer-error-99", "error of a 10 ms timer, 99th percentile", "ms", 2),
        ),
        evaluate=_timer,
        messages=300,
    ),
    Scenario(
        dataflow="start_to_end/dataflow.yml",
        measures=(Measure("start-to-end", "two nodes and one message, start to end", "s", 1 / 0.6),),
        evaluate=_start_to_end,
        runs=3,
    ),
    Scenario(
        dataflow="ros2/steady.yml",
        measures=(Measure("steady-cpu", "two nodes, 64 B at 100 Hz, processor time in 10 s", "ms"),),
        evaluate=_steady,
        messages=1000,
        warm_up=200,
        size=64,
        rclpy=(("receiver", "rclpy_steady_receiver.py"), ("sender", "rclpy_steady_sender.py")),
    ),
    Scenario(
        dataflow="idle/dataflow.yml",
        measures=(
            Measure("idle-cpu", "ten idle nodes with 10 Hz timers, CPU in 10 s", "s", 1 / 0.8),
            Measure("idle-memory", "memory (PSS) of each of ten idle nodes", "MiB", 1 / 0.6),
        ),
        evaluate=_idle,
        arguments=("--stop-after", "10s"),
        rclpy=tuple((f"idle{number}", "rclpy_idle.py") for number in range(1, 11)),
    ),
    Scenario(
        dataflow="idle/with_arrow.yml",
        measures=(
            Measure(
                "idle-memory-with-arrow", "the same, with pyarrow imported by every node", "MiB", 1 / 0.6
            ),
        ),
        evaluate=_idle_with_arrow,
        arguments=("--stop-after", "10s"),
    ),
    Scenario(
        dataflow="idle/linked.yml",
        measures=(
            Measure(
                "idle-links-cpu", "ten nodes in a row, one message a second, CPU in 10 s", "s", 1 / 0.8
            ),
            Measure("idle-links-memory", "memory (PSS) of each of these", "MiB", 1 / 0.6),
        ),
        evaluate=_idle_with_links,
        arguments=("--stop-after", "10s"),
    ),
)


def groups(scenarios: Sequence[Scenario]) -> list[list[Scenario]]:
    """Put each scenario together with the one before if it is compared with it: they run in turn."""
    grouped: list[list[Scenario]] = []
    for scenario in scenarios:
        against = {measure.against for measure in scenario.measures}
        if grouped and any(m.name in against for other in grouped[-1] for m in other.measures):
            grouped[-1].append(scenario)
        else:
            grouped.append([scenario])
    return grouped


def chosen(only: str | None) -> list[Scenario]:
    """Return the scenarios with a measure whose name contains `only`, and those they are compared with.

    Raises ValueError, naming the measures there are, when nothing matches.
    """
    if only is None:
        return list(SCENARIOS)
    wanted = {m.name for s in SCENARIOS for m in s.measures if only in m.name}
    wanted |= {m.against for s in SCENARIOS for m in s.measures if m.name in wanted and m.against}
    scenarios = [s for s in SCENARIOS if any(m.name in wanted for m in s.measures)]
    if not scenarios:
        names = ", ".join(m.name for s in SCENARIOS for m in s.measures)
        raise ValueError(f"no measure is called {only!r}; there are: {names}")
    return scenarios
