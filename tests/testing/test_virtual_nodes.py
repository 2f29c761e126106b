"""Single nodes and operators in virtual time."""

from __future__ import annotations

import asyncio
import os
import selectors
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dora import DataflowFailed, DoraStatus, Node, SendOutput
from dora.testing import VirtualTimeError, at, run_node, run_operator


def values(sent: list[Any]) -> list[Any]:
    return [message.value.to_pylist() for message in sent]


def times(sent: list[Any]) -> list[float]:
    return [message.time for message in sent]


def double(node: Node) -> None:
    for event in node:
        if event["type"] == "INPUT":
            number = event["value"][0].as_py()
            node.send_output("twice", pa.array([2 * number]), {"from": event["id"]})


def test_a_function_gets_its_inputs_and_its_outputs_are_collected() -> None:
    run = run_node(double, [("a", pa.array([1])), ("b", pa.array([2]), {"k": 1}), ("a", pa.array([3]))])
    assert values(run.outputs["twice"]) == [[2], [4], [6]]
    assert [sent.metadata["from"] for sent in run.outputs["twice"]] == ["a", "b", "a"]
    assert run.outputs["nothing"] == []
    assert run.time == 0
    assert run.result.ok


def test_inputs_without_a_moment_keep_their_order_however_slow_the_node_is() -> None:
    seen = []

    def slow(node: Node) -> None:
        for event in node:
            if event["type"] == "INPUT":
                seen.append(event["id"])
                time.sleep(0.03)

    order = ["b", "a", "a", "c", "b", "a"] * 5
    run = run_node(slow, [(name, b"x") for name in order])
    assert seen == order
    assert run.time == pytest.approx(0.9)


def test_messages_come_at_their_moments_and_queues_drop_as_in_reality() -> None:
    got = []

    def busy(node: Node) -> None:
        for event in node:
            if event["type"] == "INPUT":
                got.append((time.monotonic(), event["value"][0].as_py()))
                time.sleep(0.5)

    start = 1000.0
    run = run_node(
        busy,
        [at(number / 10, "n", pa.array([number])) for number in range(10)],
        options={"n": {"queue_size": 2}},
    )
    assert got == [(start, 0), (start + 0.5, 4), (start + 1.0, 8), (start + 1.5, 9)]
    link = run.result.links[0]
    assert (link.sent, link.received, link.dropped) == (10, 4, 6)


def ids_with_times(node: Node) -> None:
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("got", pa.array([event["id"]]))


def test_messages_with_moments_come_in_the_order_of_their_moments() -> None:
    left = [at(0.0, "left", b"1"), at(1.0, "left", b"2")]
    right = [at(0.5, "right", b"1"), at(1.0, "right", b"2")]
    run = run_node(ids_with_times, left + right)
    assert times(run.outputs["got"]) == [0, 0.5, 1, 1]
    assert values(run.outputs["got"]) == [["left"], ["right"], ["left"], ["right"]]
    with pytest.raises(ValueError, match=r"a message at 0\.5 s comes after one at 1 s"):
        run_node(ids_with_times, [at(1.0, "left", b"1"), ("left", b"2"), at(0.5, "right", b"3")])
    mixed = run_node(ids_with_times, [at(0.5, "left", b"1"), ("right", b"2"), at(1.0, "left", b"3")])
    assert times(mixed.outputs["got"]) == [0.5, 0.5, 1]


def test_a_sleep_takes_the_nearest_nanosecond() -> None:
    def sleep(node: Node) -> None:
        time.sleep(2.01)  # as a binary fraction, a little less
        node.send_output("done", b"")

    assert times(run_node(sleep).outputs["done"]) == [2.01]


def until_a_moment(step: Callable[[Node, float], None]) -> Callable[[Node], None]:
    def body(node: Node) -> None:
        for begin in (0.123, 0.82, 1.7):
            time.sleep(begin)
            end = time.monotonic() + 0.1
            while (left := end - time.monotonic()) > 0:
                step(node, left)
            node.send_output("ended", pa.array([round(time.monotonic() - end, 3)]))

    return body


@pytest.mark.parametrize(
    "step",
    [
        lambda _, left: time.sleep(left),
        lambda _, left: time.sleep(left / 3),
        lambda node, left: node.next(timeout=left),
        lambda node, left: node.next(timeout=left / 3),
        lambda node, left: asyncio.run(node.recv_async(left)),
    ],
    ids=["sleep", "short_sleeps", "next", "short_nexts", "recv_async"],
)
def test_a_loop_until_a_moment_ends(step: Callable[[Node, float], None]) -> None:
    run = run_node(until_a_moment(step), limit=10)
    assert values(run.outputs["ended"]) == [[0.0]] * 3


def test_timers_run_on_the_virtual_clock() -> None:
    def clock(node: Node) -> None:
        for event in node:
            if event["type"] == "STOP":
                break
            node.send_output("tick", b"")

    begun = time.perf_counter()
    run = run_node(clock, timers={"t": "dora/timer/secs/1"}, stop_after=10)
    assert times(run.outputs["tick"]) == [float(second) for second in range(11)]
    assert run.result.stopped
    assert time.perf_counter() - begun < 10


def test_timeouts_of_next_and_of_inputs() -> None:
    events = []

    def listen(node: Node) -> None:
        while (event := node.next(timeout=1.0)) is not None:
            events.append((round(time.monotonic() - 1000, 3), event["type"]))

    run_node(
        listen,
        [at(0.5, "n", b""), at(3.0, "n", b"")],
        options={"n": {"input_timeout": 0.7}},
    )
    assert events == [
        (0.5, "INPUT"),
        (1.2, "INPUT_CLOSED"),
        (2.2, "ERROR"),
        (3.0, "INPUT_RECOVERED"),
        (3.0, "INPUT"),
        (3.0, "INPUT_CLOSED"),
        (3.0, "STOP"),
    ]


def test_a_polling_node_does_not_hang() -> None:
    def poll(node: Node) -> None:
        while True:
            event = node.try_recv()
            if event is not None and event["type"] == "STOP":
                return
            if event is not None and event["type"] == "INPUT":
                node.send_output("seen", event["value"])

    run = run_node(poll, [at(0.25, "n", b"a"), at(0.5, "n", b"b")])
    assert times(run.outputs["seen"]) == pytest.approx([0.25, 0.5], abs=0.002)


@pytest.mark.lengthy
def test_asyncio_sleeps_take_no_real_time() -> None:
    async def main() -> None:
        node = Node()
        beats = 0

        async def heart() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.1)
                beats += 1

        task = asyncio.create_task(heart())
        async for event in node:
            if event["type"] == "INPUT":
                node.send_output("beats", pa.array([beats]))
                done = await asyncio.to_thread(lambda: 42)
                node.send_output("done", pa.array([done]))
        task.cancel()

    run = run_node(main, [at(0.05, "n", b""), at(1.05, "n", b"")])
    assert values(run.outputs["beats"]) == [[0], [10]]
    assert values(run.outputs["done"]) == [[42], [42]]


def test_recv_async_times_out_in_virtual_time() -> None:
    async def main() -> None:
        node = Node()
        assert (await node.recv_async())["type"] == "INPUT"  # the first tick, at once
        event = await node.recv_async(timeout=5.0)
        assert event is not None
        assert event["type"] == "ERROR"
        node.send_output("t", b"")

    run = run_node(main, timers={"rare": "dora/timer/secs/1000"})
    assert times(run.outputs["t"]) == [5.0]


def test_the_exception_of_a_node_is_raised_unchanged() -> None:
    def fail(node: Node) -> None:
        node.next()
        raise ZeroDivisionError("by the node")

    with pytest.raises(ZeroDivisionError, match="by the node") as raised:
        run_node(fail, [("n", b"")])
    assert raised.value.__notes__ == ["in node `node` of the dataflow"]
    run = run_node(fail, [("n", b"")], check=False)
    assert [failure.node_id for failure in run.result.failures] == ["node"]


def test_an_exit_status_is_a_failure_with_a_report() -> None:
    def leave(node: Node) -> None:
        node.next()
        print("a last line")
        sys.exit(3)

    with pytest.raises(DataflowFailed, match="exited with status 3"):
        run_node(leave, [("n", b"")])


def test_a_node_that_never_ends_is_reported() -> None:
    def deaf(node: Node) -> None:
        for _ in node:
            pass

    with pytest.raises(VirtualTimeError, match=r"did not end within 2 s.*node waits for its inputs `t`"):
        run_node(deaf, timers={"t": "dora/timer/millis/500"}, limit=2)


def test_a_node_that_ignores_the_stop_is_killed_after_the_grace_period() -> None:
    def stubborn() -> None:
        Node()
        while True:
            time.sleep(1)

    run = run_node(stubborn, timers={"t": "dora/timer/secs/1"}, stop_after=1)
    assert run.time == 11  # SIGTERM, ten seconds after the stop


def test_a_script_has_its_own_arguments_environment_and_folder(tmp_path: Path) -> None:
    (tmp_path / "helper_of_script.py").write_text("NUMBER = 7\n")
    (tmp_path / "script.py").write_text(
        "import os, sys\n"
        "from time import sleep, time\n"
        "import helper_of_script\n"
        "import dora\n"
        "if __name__ == '__main__':\n"
        "    node = dora.Node()\n"
        "    before = time()\n"
        "    sleep(3600)\n"
        "    assert time() - before == 3600\n"
        "    print(helper_of_script.NUMBER, sys.argv[1:], os.environ['COLOUR'])\n"
    )
    before = (list(sys.argv), dict(os.environ), os.getcwd(), list(sys.path))
    run = run_node(tmp_path / "script.py", args=["--fast"], env={"COLOUR": "red"}, limit=7200)
    assert run.lines == ["7 ['--fast'] red"]
    assert (list(sys.argv), dict(os.environ), os.getcwd(), list(sys.path)) == before
    assert "helper_of_script" not in sys.modules


def test_what_a_node_changes_in_its_environment_and_folder_stays_while_others_run(tmp_path: Path) -> None:
    seen = []

    def node() -> None:
        os.environ["A"] = "changed"
        os.chdir(tmp_path)
        time.sleep(1)
        seen.append((os.environ["A"], os.getcwd()))

    outside = os.getcwd()
    run_node(node, env={"A": "given"})
    assert seen == [("changed", str(tmp_path))]
    assert "A" not in os.environ
    assert os.getcwd() == outside


def test_a_variable_that_a_node_sets_or_deletes_is_so_for_this_node_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OF_THE_TEST", "here")
    names = ("OF_THE_TEST", "GIVEN", "NEW")
    seen: list[Any] = []

    def node() -> None:
        del os.environ["OF_THE_TEST"], os.environ["GIVEN"]
        os.environ["NEW"] = "of the node"
        time.sleep(1)
        seen.append([os.environ.get(name) for name in names])

    run_node(node, env={"GIVEN": "given"})
    assert seen == [[None, None, "of the node"]]
    assert [os.environ.get(name) for name in names] == ["here", None, None]


def test_the_command_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "echoing.py").write_text(
        "import sys\nimport dora\n\n"
        "def main():\n"
        "    for event in (node := dora.Node()):\n"
        "        if event['type'] == 'INPUT':\n"
        "            node.send_output('echo', event['value'], {'args': sys.argv[1:]})\n"
    )
    info = tmp_path / "echoing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echoing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[console_scripts]\ndora-test-echo = echoing:main\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = run_node("dora-test-echo", [("n", b"x")], args=["--loud"])
    assert run.outputs["echo"][0].data == b"x"
    assert run.outputs["echo"][0].metadata["args"] == ["--loud"]


def test_errors_that_a_node_logs_are_counted() -> None:
    def warm_up(node: Node) -> None:
        node.log_error("the arm is hot")
        node.log_warn("the arm is warm")

    assert run_node(warm_up).result.node_counts == {"node": {"errors": 1}}


def test_undeclared_outputs_are_dropped_if_the_outputs_are_given() -> None:
    def send(node: Node) -> None:
        node.send_output("right", b"1")
        node.send_output("wrong", b"2")

    run = run_node(send, outputs=["right"])
    assert list(run.outputs) == ["right"]
    assert run.result.undeclared == {"node": {"wrong": 1}}
    assert run.result.node_counts == {"node": {"undeclared": 1}}
    assert any("`wrong` is not declared" in line for line in run.lines)


class Doubler:
    def __init__(self) -> None:
        self.closed: list[str] = []

    def on_event(self, dora_event: Any, send_output: Any) -> DoraStatus:
        if dora_event["type"] == "INPUT":
            send_output("twice", pa.array([2 * dora_event["value"][0].as_py()]), dora_event["metadata"])
        elif dora_event["type"] == "INPUT_CLOSED":
            self.closed.append(dora_event["id"])
        elif dora_event["type"] == "STOP":
            send_output("end", pa.array(self.closed))
        return DoraStatus.CONTINUE


def test_an_operator_class() -> None:
    run = run_operator(Doubler, [("n", pa.array([4]), {"k": "v"})], outputs=["twice", "end"])
    assert values(run.outputs["twice"]) == [[8]]
    assert run.outputs["twice"][0].metadata["k"] == "v"
    assert values(run.outputs["end"]) == [["n"]]


def test_an_operator_file_and_its_exception(tmp_path: Path) -> None:
    file = tmp_path / "op.py"
    file.write_text("class Operator:\n    def on_event(self, event, send_output):\n        1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        run_operator(file, [("n", b"")], outputs=[])


def test_one_group_of_synchronised_inputs_is_a_list_too() -> None:
    group: Any = {"inputs": ["a", "b"]}
    with pytest.raises(ValueError, match="sync must be a list of groups"):
        run_node(lambda: None, [("a", b""), ("b", b"")], sync=group)


def test_runs_are_the_same_every_time() -> None:
    def noisy(node: Node) -> None:
        for event in node:
            if event["type"] == "INPUT":
                time.sleep(0.013)
                node.send_output("out", event["value"], event["metadata"])

    def once() -> list[tuple[float, Any]]:
        run = run_node(
            noisy,
            [at(number * 0.01, "n", pa.array([number])) for number in range(50)],
            timers={"t": "dora/timer/millis/7"},
            stop_after=0.4,
        )
        return [
            (sent.time, sent.metadata["timestamp"], sent.value.to_pylist()) for sent in run.outputs["out"]
        ]

    assert once() == once()


def test_virtual_time_is_given_back() -> None:
    run_node(lambda: Node().next(timeout=0), outputs=[])
    # Functions written in C, and not merely those from before the run: another one could have left them.
    assert all(isinstance(each, BuiltinFunctionType) for each in (time.sleep, time.time, time.monotonic))
    assert isinstance(selectors.DefaultSelector, type)
    from dora.node import attach
    from dora.node.receive import inbox

    assert inbox._monotonic is time.monotonic_ns
    assert attach.in_process(None) is None


def test_inputs_can_be_synchronised() -> None:
    def fuse(node: Node) -> None:
        for event in node:
            if event["type"] == "SYNC":
                node.send_output("sum", pc.add(*(each["value"] for each in event.messages())))

    moment = datetime(2026, 1, 1, tzinfo=UTC)
    stamps = [{"timestamp": moment + timedelta(seconds=number)} for number in range(20)]
    inputs = [("a", pa.array([number]), stamp) for number, stamp in enumerate(stamps)]
    inputs += [("b", pa.array([100 * number]), stamp) for number, stamp in enumerate(stamps)]
    run = run_node(fuse, inputs, sync=[{"inputs": ["a", "b"]}])
    assert values(run.outputs["sum"]) == [[101 * number] for number in range(20)]


class Fuse:
    def on_event(self, event: Any, send_output: SendOutput) -> DoraStatus:
        if event["type"] == "SYNC":
            send_output("missing", pa.array(event["missing"]))
        return DoraStatus.CONTINUE


def test_an_operator_gets_sets_and_their_timeout() -> None:
    run = run_operator(
        Fuse,
        [at(0.5, "a", b"x")],
        options={"b": {}},
        outputs=["missing"],
        sync=[{"inputs": ["a", "b"], "timeout": "2s"}],
    )
    assert values(run.outputs["missing"]) == [["b"]]
