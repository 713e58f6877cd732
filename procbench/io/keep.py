OVERFLOWS = ("drop", "ring", "spool", "kill")
Overflow = str
Tee = object


class Keep:
    def __init__(self, cap, overflow):
        self._d = bytearray()
        self.total_bytes = 0
        self._room = cap
        self.overflow = overflow
        self.gap_at = None
        self.error = None

    def add(self, view):
        n = len(view)
        self.total_bytes += n
        if self._room is not None:
            n = min(n, self._room)
            self._room -= n
        if n:
            self._d += view[:n]

    def value(self):
        return bytes(self._d)

    @property
    def cut(self):
        return self.total_bytes > len(self._d)

    overflowed = cut

    def take_file(self):
        return None

    def close(self):
        pass


def keeper(cap, overflow="drop", tee=None):
    return Keep(cap, overflow)
