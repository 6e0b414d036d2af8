"""A worker for BuildGrid: takes leases of the Remote Workers API and runs each action with buildbox-run.

usage: bot.py HOST:PORT CAPACITY [argument of the runner...]     BUILDBOX_RUN names the runner.
"""
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from buildgrid._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as api
from buildgrid._protos.google.bytestream import bytestream_pb2, bytestream_pb2_grpc
from buildgrid._protos.google.devtools.remoteworkers.v1test2 import bots_pb2 as bots
from buildgrid._protos.google.devtools.remoteworkers.v1test2 import bots_pb2_grpc, worker_pb2

address, capacity, extra = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
name = f"quipu-bot-{os.getpid()}"
channel = grpc.insecure_channel(address)
stub = bots_pb2_grpc.BotsStub(channel)
stream = bytestream_pb2_grpc.ByteStreamStub(channel)


def read(digest):
    request = bytestream_pb2.ReadRequest(resource_name=f"blobs/{digest.hash}/{digest.size_bytes}")
    return b"".join(part.data for part in stream.Read(request))


def run(lease):
    """Exit code of the runner, what it complained of, and the result."""
    action = api.Action()
    if lease.payload.Is(api.Action.DESCRIPTOR):
        lease.payload.Unpack(action)
    else:
        digest = api.Digest()
        lease.payload.Unpack(digest)
        action.ParseFromString(read(digest))
    result = api.ActionResult()
    with tempfile.TemporaryDirectory() as dir:
        with open(f"{dir}/action", "wb") as file:
            file.write(action.SerializeToString())
        command = [os.environ["BUILDBOX_RUN"], f"--remote=http://{address}", f"--action={dir}/action",
                   f"--action-result={dir}/result", "--log-level=warning", *extra]
        ran = subprocess.run(command, capture_output=True)
        if os.path.exists(f"{dir}/result"):
            with open(f"{dir}/result", "rb") as file:
                result.ParseFromString(file.read())
    result.execution_metadata.worker = name
    return ran.returncode, ran.stderr[-600:], result


def session():
    properties = [worker_pb2.Device.Property(key="OSFamily", value="linux")]
    worker = worker_pb2.Worker(devices=[worker_pb2.Device(handle=name, properties=properties)])
    worker.configs.append(worker_pb2.Worker.Config(key="capacity", value=str(capacity)))
    wanted = bots.BotSession(bot_id=name, status=bots.OK, worker=worker)
    # The server takes some seconds to come up.
    for _ in range(120):
        try:
            return stub.CreateBotSession(bots.CreateBotSessionRequest(bot_session=wanted), timeout=30)
        except grpc.RpcError as error:
            print("no session yet:", error.code(), flush=True)
            time.sleep(0.5)
    sys.exit("no session")


current = session()
print("session", current.name, flush=True)
pool, running, wake = ThreadPoolExecutor(capacity), {}, threading.Event()
while True:
    for lease in current.leases:
        if lease.state in (bots.PENDING, bots.ACTIVE) and lease.id not in running:
            running[lease.id] = pool.submit(run, lease)
            running[lease.id].add_done_callback(lambda _: wake.set())
            lease.state = bots.ACTIVE
        elif lease.state in (bots.PENDING, bots.ACTIVE) and running[lease.id].done():
            code, said, result = running.pop(lease.id).result()
            if code:
                print("the runner failed:", code, said, flush=True)
                lease.status.code, lease.status.message = 13, said.decode(errors="replace")
            lease.state = bots.COMPLETED
            lease.result.Pack(result)
        elif lease.state == bots.CANCELLED:
            running.pop(lease.id, None)
    try:
        request = bots.UpdateBotSessionRequest(name=current.name, bot_session=current)
        current = stub.UpdateBotSession(request, timeout=1 if running else 20)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
            print("no answer:", error.code(), error.details(), flush=True)
            time.sleep(1)
        continue
    if running and not any(work.done() for work in running.values()):
        wake.wait(0.25)
    wake.clear()
