from procbench.io.groups import *
from procbench.io.groups import signal_group, living_members
import signal

LEVELS = ("group", "subreaper", "cgroup")
ContainmentLevel = str


class Contained:
    def __init__(self, pid):
        self.pid = pid
        self.level = "group"

    def signal(self, n):
        signal_group(self.pid, n)

    def living(self):
        return living_members(self.pid)

    def release(self):
        return ()


class Containment:
    def __init__(self, level):
        self.level = level

    def prepare(self, env):
        return env, None

    def contain(self, pid, mark):
        return Contained(pid)

    def close(self):
        pass


GROUPS = Containment("group")


class Ending:
    def __init__(self, c, *, kill_at_s, give_up_after_s):
        self.c = c
        self.k = kill_at_s
        self.g = give_up_after_s
        self.killed = False
        self.w = 0.001

    def step(self, now):
        if not self.c.living():
            return None
        if not self.killed and now >= self.k:
            self.c.signal(signal.SIGKILL)
            self.killed = True
            self.w = 0.001
        elif self.killed and now >= self.k + self.g:
            return None
        w = self.w
        self.w = min(0.02, 2 * w)
        return w
