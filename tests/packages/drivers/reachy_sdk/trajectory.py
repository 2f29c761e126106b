def goto(goal, duration):
    print(f"goto {goal}", flush=True)
