"""From zero to a trained policy: record, train, roll out without and with training, report."""

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import dora
from dora.errors import DoraError

OUT = Path("out")


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def python(program: str, *arguments: object) -> None:
    """Run a program of this folder; raises ``CalledProcessError``."""
    # The matrices are small: on a busy machine, threads would only wait for each other.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, program, *map(str, arguments)], env=environment, check=True)


def run_dataflow(file: str, **environment: object) -> None:
    """Run a dataflow to its end; raises ``DoraError``, and ``SystemExit`` if Ctrl-C has stopped it."""
    result = dora.run(file, env={name: str(value) for name, value in environment.items()})
    if result.stopped:
        sys.exit(f"error: {file} was stopped before its end, and the rest is left out")


def record_by_hand(episodes: int, seed: int) -> None:
    """Run ``keyboard.yml`` beside the program that reads the keyboard; raises ``SystemExit``."""
    OUT.mkdir(exist_ok=True)
    log = OUT / "keyboard.txt"
    variables = {"NAME": "human", "EPISODES": str(episodes), "SEED": str(seed), "SECONDS": "60"}
    with log.open("w") as file:
        dataflow = subprocess.Popen(
            [sys.executable, "-m", "dora", "run", "keyboard.yml"],
            env={**os.environ, **variables},
            stdout=file,
            stderr=file,
            start_new_session=True,  # Ctrl-C goes to the keyboard only
        )
    stopped = False
    try:
        python("keyboard.py")
    except (subprocess.CalledProcessError, KeyboardInterrupt):
        stopped = True
        dataflow.send_signal(signal.SIGINT)
    if dataflow.wait() != 0 or stopped:
        sys.exit(f"error: not all episodes were recorded; {log} says more")


def roll_out(name: str, policy: str, episodes: int, seed: int) -> int:
    """Run ``rollout.yml``; return how many episodes succeeded."""
    run_dataflow("rollout.yml", NAME=name, POLICY=f"out/{policy}.npz", EPISODES=episodes, SEED=seed)
    successes: int = json.loads((OUT / f"{name}.json").read_text())["successes"]
    return successes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides starts, noise and first weights [1]")
    parser.add_argument("--episodes", type=int, default=50, help="of each rollout [50]")
    parser.add_argument("--demonstrations", type=int, default=20, help="episodes to record [20]")
    parser.add_argument("--quick", action="store_true", help="5 demonstrations, 3 episodes, short training")
    parser.add_argument(
        "--keyboard", action="store_true", help="record episodes with the arrow keys yourself"
    )
    parser.add_argument("--keep", action="store_true", help="train on the data set that is there")
    options = parser.parse_args()
    if min(options.episodes, options.demonstrations) < 1 or options.seed < 0:
        parser.error("--episodes and --demonstrations have to be 1 or more, --seed 0 or more")
    episodes, demonstrations, steps = options.episodes, options.demonstrations, 4000
    if options.quick:
        episodes, demonstrations, steps = 3, 5, 800
    if options.keyboard and options.keep:
        parser.error("--keyboard records a data set, and --keep takes the one that is there")
    os.chdir(Path(__file__).parent)
    dataset = OUT / "dataset"
    if dataset.exists() and not options.keep:
        parser.error(f"{dataset} is there; remove it to record again, or train on it with --keep")

    try:
        if options.keyboard:
            say(f"recording {demonstrations} episodes at the keyboard")
            record_by_hand(demonstrations, options.seed)
        elif not options.keep:
            say(f"recording {demonstrations} episodes of the teacher")
            run_dataflow("record.yml", NAME="teacher", EPISODES=demonstrations, SEED=options.seed)
        say("training")
        python("train.py", "--steps", steps, "--seed", options.seed)
        # The same starts for both, and not the starts of the teacher.
        seed = options.seed + 1000
        say(f"{episodes} episodes with the untrained network")
        untrained = roll_out("untrained", "untrained", episodes, seed)
        say(f"{episodes} episodes with the trained network")
        trained = roll_out("rollout", "policy", episodes, seed)
        python("report.py")
    except DoraError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # it has said why
    print(
        f"success rate: {round(100 * trained / episodes)} % of {episodes} "
        f"(untrained: {round(100 * untrained / episodes)} %)"
    )


if __name__ == "__main__":
    main()
