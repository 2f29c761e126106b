"""From zero to a trained policy: record, train, roll out without and with training, report."""

import argparse
import json
import os
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
    subprocess.run([sys.executable, program, *map(str, arguments)], check=True)


def roll_out(name: str, policy: str, episodes: int, seed: int) -> int:
    """Run ``rollout.yml``; return how many episodes succeeded."""
    environment = {"NAME": name, "POLICY": f"out/{policy}.npz", "EPISODES": episodes, "SEED": seed}
    dora.run("rollout.yml", env={key: str(value) for key, value in environment.items()})
    successes: int = json.loads((OUT / f"{name}.json").read_text())["successes"]
    return successes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides starts, noise and first weights [1]")
    parser.add_argument("--episodes", type=int, default=50, help="of each rollout [50]")
    parser.add_argument("--demonstrations", type=int, default=20, help="episodes to record [20]")
    parser.add_argument("--quick", action="store_true", help="5 demonstrations, 3 episodes, short training")
    parser.add_argument("--keep", action="store_true", help="train on the data set that is there")
    options = parser.parse_args()
    if min(options.episodes, options.demonstrations) < 1 or options.seed < 0:
        parser.error("--episodes and --demonstrations have to be 1 or more, --seed 0 or more")
    episodes, demonstrations, steps = options.episodes, options.demonstrations, 4000
    if options.quick:
        episodes, demonstrations, steps = 3, 5, 800
    os.chdir(Path(__file__).parent)
    dataset = OUT / "dataset"
    if dataset.exists() and not options.keep:
        parser.error(f"{dataset} is there; remove it to record again, or train on it with --keep")

    try:
        if not options.keep:
            say(f"recording {demonstrations} episodes of the teacher")
            environment = {"NAME": "teacher", "EPISODES": str(demonstrations), "SEED": str(options.seed)}
            dora.run("record.yml", env=environment)
        say("training")
        python("train.py", "--steps", steps, "--seed", options.seed)
        # The same starts for both, and others than those of the teacher.
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
