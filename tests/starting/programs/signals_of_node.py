import faulthandler
import os
import select
import signal
import socket
import subprocess
import sys
import threading

from facts import record

seen = []
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGWINCH):
    signal.signal(number, lambda number, frame: seen.append([number, frame.f_code.co_name]))
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH):
    os.kill(os.getpid(), number)
record("seen", seen.copy())
subprocess.run(["true"], check=True)
record("end of a child", signal.SIGCHLD in [number for number, _ in seen])
record("stays blocked", [signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, ())])
os.kill(os.getpid(), signal.SIGUSR2)
record("pending", sorted(int(number) for number in signal.sigpending()))
if signal.sigpending():
    record("waited for", int(signal.sigwait([signal.SIGUSR2])))
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    record("interrupt", "KeyboardInterrupt")
here, there = socket.socketpair()
here.setblocking(False)
old = signal.set_wakeup_fd(here.fileno())
os.kill(os.getpid(), signal.SIGUSR1)
record("wake-up", [old, bool(select.select([there], [], [], 10)[0])])
signal.set_wakeup_fd(-1)
reading, writing = os.pipe()
os.close(reading)
try:
    os.write(writing, b"x")
except BrokenPipeError as error:
    record("broken pipe", str(error))
shell = 'kill -USR1 $$; kill -HUP $$; echo alive; grep -E "Sig(Blk|Ign)" /proc/self/status'
record("a child", subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False).stdout)
waiter = threading.Thread(target=lambda: record("in a thread", signal.sigtimedwait([signal.SIGALRM], 0.01)))
waiter.start()
waiter.join()
faulthandler.register(signal.SIGVTALRM, file=sys.stderr, all_threads=False)
os.kill(os.getpid(), signal.SIGVTALRM)
faulthandler.dump_traceback(file=sys.stderr)
