"""The Python kernel that runs a notebook of a report, reachable over Unix sockets only.

``python -m procbench.views.kernel -f CONNECTION_FILE``. ipykernel takes its channels from the connection file, and
those can be ``ipc``. But its output thread opens one more TCP port on 127.0.0.1, through which forked children send
what they print; here that socket stands in the same private folder as the others.
"""

from __future__ import annotations

import os
from typing import Any


def main() -> None:
    """Run the kernel until its client shuts it down or its parent is gone."""
    import zmq
    from ipykernel import iostream, kernelapp
    from zmq.eventloop.zmqstream import ZMQStream

    class LocalIOPubThread(iostream.IOPubThread):  # type: ignore[misc, no-any-unimported, unused-ignore]
        """Take the output of forked children over a Unix socket next to the kernel's own ones."""

        def _setup_pipe_in(self) -> None:
            endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
            self._pipe_uuid = os.urandom(16)
            self._forked_address = f"{endpoint}-forked"
            pipe_in = self.socket.context.socket(zmq.PULL)
            pipe_in.linger = 0
            pipe_in.bind(self._forked_address)
            self._pipe_in = ZMQStream(pipe_in, self.io_loop)
            self._pipe_in.on_recv(self._handle_pipe_msg)

        def _setup_pipe_out(self) -> tuple[Any, Any]:
            context = zmq.Context()  # a new one, because a context does not survive the fork
            pipe_out = context.socket(zmq.PUSH)
            pipe_out.linger = 3000
            pipe_out.connect(self._forked_address)
            return context, pipe_out

    vars(kernelapp)["IOPubThread"] = LocalIOPubThread  # the name by which the kernel makes its output thread
    kernelapp.launch_new_instance()


if __name__ == "__main__":
    main()
