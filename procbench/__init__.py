"""procbench: find out what makes your child processes faster on your Linux machine, and prove it.

The names below are loaded when they are first used, so that ``import procbench`` costs next to nothing and no pandas.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from procbench.analysis.results import frame
    from procbench.cpu.affinity import CpuAffinityManager
    from procbench.cpu.priority import ProcessPriorityManager
    from procbench.errors import ProcbenchError
    from procbench.io.blocking import run
    from procbench.io.io_pools import IO_POOLS, BufferSizes
    from procbench.io.order import KEEP
    from procbench.io.process import open_process
    from procbench.io.results import RunResult
    from procbench.io.signals import ending_by_exception
    from procbench.memory.buffers import BufferPool
    from procbench.memory.mapping import MemoryMapping
    from procbench.memory.pools import MemoryPoolManager
    from procbench.memory.transfer import receive, send
    from procbench.monitoring.export import MetricsServer
    from procbench.monitoring.monitor import PerformanceMonitor
    from procbench.scheduling.queues import TaskQueue
    from procbench.scheduling.ready import PriorityScheduler
    from procbench.scheduling.settings import RunSettings
    from procbench.scheduling.sharded import ShardedTaskQueue
    from procbench.scheduling.stealing import WorkStealingScheduler
    from procbench.scheduling.task import ProcessTask, TaskResult

__version__ = "0.1.0"

_HOMES = {
    "BufferPool": "procbench.memory.buffers",
    "BufferSizes": "procbench.io.io_pools",
    "CpuAffinityManager": "procbench.cpu.affinity",
    "IO_POOLS": "procbench.io.io_pools",
    "KEEP": "procbench.io.order",
    "MemoryMapping": "procbench.memory.mapping",
    "MemoryPoolManager": "procbench.memory.pools",
    "MetricsServer": "procbench.monitoring.export",
    "PerformanceMonitor": "procbench.monitoring.monitor",
    "PriorityScheduler": "procbench.scheduling.ready",
    "ProcbenchError": "procbench.errors",
    "ProcessPriorityManager": "procbench.cpu.priority",
    "ProcessTask": "procbench.scheduling.task",
    "RunResult": "procbench.io.results",
    "RunSettings": "procbench.scheduling.settings",
    "ShardedTaskQueue": "procbench.scheduling.sharded",
    "TaskQueue": "procbench.scheduling.queues",
    "TaskResult": "procbench.scheduling.task",
    "WorkStealingScheduler": "procbench.scheduling.stealing",
    "ending_by_exception": "procbench.io.signals",
    "frame": "procbench.analysis.results",
    "open_process": "procbench.io.process",
    "receive": "procbench.memory.transfer",
    "run": "procbench.io.blocking",
    "send": "procbench.memory.transfer",
}

__all__ = [
    "IO_POOLS",
    "KEEP",
    "BufferPool",
    "BufferSizes",
    "CpuAffinityManager",
    "MemoryMapping",
    "MemoryPoolManager",
    "MetricsServer",
    "PerformanceMonitor",
    "PriorityScheduler",
    "ProcbenchError",
    "ProcessPriorityManager",
    "ProcessTask",
    "RunResult",
    "RunSettings",
    "ShardedTaskQueue",
    "TaskQueue",
    "TaskResult",
    "WorkStealingScheduler",
    "ending_by_exception",
    "frame",
    "open_process",
    "receive",
    "run",
    "send",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'procbench' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: Any) -> None:
    """Have an IPython shell show procbench's objects as tables and widgets: ``%load_ext procbench``."""
    from procbench.views.in_notebook import register

    register(shell)


def _tell_ipython() -> None:
    """Tell the shell that runs this, if one does; no class of ours has to know how it looks, nor to load what draws it."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if get_ipython is None else get_ipython()
    if shell is not None:
        load_ipython_extension(shell)


_tell_ipython()
