"""Engines in one process each, forked from one that has imported vLLM: importing takes longer than
making a tiny engine.

    python nursery.py FD     (engine.py starts it)

Each message is the path of a log and, beside it, the engine's end of its socket; the answer is the
process id. An engine is the leader of its process group. End of file ends the nursery, and not the
engines, which end with their own sockets.

vLLM's engine core and worker then share the engine's process (VLLM_ENABLE_V1_MULTIPROCESSING=0).
"""
import array
import gc
import importlib
import os
import signal
import socket
import sys

import engine_child

IMPORTED = ("vllm", "vllm.lora.request", "vllm.v1.engine.core", "vllm.v1.worker.cpu_worker",
            "vllm.model_executor.models.llama", "vllm.model_executor.models.gemma3", "kveik.vllm")
PATH_BYTES = 4096


def born(log, given):
    """The engine's process, to its end."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)
    with socket.socket(fileno=given) as link:
        engine_child.serve(link)
    sys.stdout.flush()
    os._exit(0)  # style-ok: what the nursery would do at its end is not this process's


def main():
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # engines leave nothing behind
    with socket.socket(fileno=int(sys.argv[1])) as link:
        while True:
            path, rights, _, _ = link.recvmsg(PATH_BYTES, socket.CMSG_SPACE(4))
            if not path:
                return
            given = array.array("i", rights[0][2])[0]
            pid = os.fork()
            if pid == 0:
                link.close()
                born(path.decode(), given)
            os.close(given)
            link.send(str(pid).encode())


if __name__ == "__main__":
    main()
