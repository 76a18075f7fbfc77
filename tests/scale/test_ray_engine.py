"""Workers on Ray: the result of a loop, lost workers, and clusters that cannot be used."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llama_index_ace_finetune import __version__
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError
from llama_index_ace_finetune.pipeline.encode import encode
from llama_index_ace_finetune.scale import ray_engine
from llama_index_ace_finetune.scale.encode_shard import EncodeWork
from llama_index_ace_finetune.scale.engine import EngineSettings, run_shards
from llama_index_ace_finetune.scale.ray_engine import ATTEMPTS, Worker
from llama_index_ace_finetune.scale.shard_folder import ShardFolder
from tests.encoders.tiny_model import CPU, tiny_model
from tests.helpers.grpc_server import GrpcServer

RAY = EngineSettings(engine="ray", workers=2)


@dataclass(frozen=True)
class DieOnce:
    """Ends its process at the first attempt of each task in `fatal`, or at each one."""

    folder: Path
    fatal: frozenset[int]
    always: bool = False

    def start(self) -> Callable[[int], int]:
        def run(number: int) -> int:
            mark = self.folder / str(number)
            if number in self.fatal and (self.always or not mark.exists()):
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return number * number

        return run


@dataclass(frozen=True)
class Fail:
    def start(self) -> Callable[[int], int]:
        def run(number: int) -> int:
            raise ModelError(f"The task {number} is wrong; correct it.")

        return run


class TestWithoutCluster:
    def test_ray_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(AceFinetuneError, match=r"needs the extra scale; install it with .*, or set the engine to"):
            list(run_shards(Fail(), [1], RAY))

    @pytest.mark.parametrize("address", ["nowhere", "host:port", "ray://10.0.0.1"])
    def test_malformed_address(self, address: str) -> None:
        pytest.importorskip("ray")
        with pytest.raises(AceFinetuneError, match="write HOST:PORT"):
            list(run_shards(Fail(), [1], EngineSettings(engine="ray", ray_address=address)))

    def test_unreachable_address(self) -> None:
        pytest.importorskip("ray")
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # not listening
            address = f"127.0.0.1:{unused.getsockname()[1]}"
            with pytest.raises(AceFinetuneError, match=r"no Ray cluster at '127.*\(Connection refused\)"):
                list(run_shards(Fail(), [1], EngineSettings(engine="ray", ray_address=address)))

    def test_address_of_another_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("ray")
        monkeypatch.setattr(ray_engine, "_ANSWER_SECONDS", 0.3)
        with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"127.0.0.1:{server.server_port}"
            with pytest.raises(AceFinetuneError, match=r"no Ray cluster at '127.*\(what answers there is not Ray\)"):
                list(run_shards(Fail(), [1], EngineSettings(engine="ray", ray_address=address)))
            server.shutdown()
        with GrpcServer() as other:
            assert ray_engine._speaks_grpc(f"127.0.0.1:{other.port}")

    def test_cluster_of_another_version_of_ray(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ray = pytest.importorskip("ray")

        def init(**options: object) -> None:
            raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.11.7")

        monkeypatch.setattr(ray, "init", init)
        with pytest.raises(AceFinetuneError, match=r"another version of Ray or Python .*Ray: 2\.9\.0 Python: 3\.11"):
            list(run_shards(Fail(), [1], EngineSettings(engine="ray", ray_address="auto")))

    def test_ray_that_cannot_be_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ray = pytest.importorskip("ray")

        def init(**options: object) -> None:
            raise Exception("The current node timed out during startup.")

        monkeypatch.setattr(ray, "init", init)
        with pytest.raises(AceFinetuneError, match=r"cannot be started .*timed out during startup.*engine to local\."):
            list(run_shards(Fail(), [1], RAY))

    def test_worker_of_another_version(self) -> None:
        with pytest.raises(
            AceFinetuneError, match=r"has llama-index-ace-finetune .* and not 0\.0\.7; install the same"
        ):
            Worker().start("0.0.7", Fail())

    def test_a_worker_on_one_core_tokenizes_by_one_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAYON_NUM_THREADS", "4")
        Worker().start(__version__, Fail())
        assert os.environ["RAYON_NUM_THREADS"] == "4"  # as it was set
        monkeypatch.delenv("RAYON_NUM_THREADS")
        Worker().start(__version__, Fail(), one_core=False)
        assert "RAYON_NUM_THREADS" not in os.environ
        Worker().start(__version__, Fail())
        assert os.environ["RAYON_NUM_THREADS"] == "1"

    def test_worker_with_another_model(self, tmp_path: Path) -> None:
        model = tiny_model(tmp_path / "tiny")
        work = EncodeWork(str(model), CPU, "torch", "f" * 32, tmp_path, columns=None)  # type: ignore[arg-type]
        with pytest.raises(ModelError, match=r"differs between machines \(fingerprint .*, not 'ffff"):
            work.start()


@pytest.mark.slow
class TestOnRay:
    """Ray is started once for all of them."""

    @pytest.fixture(scope="class", autouse=True)
    def cluster(self) -> Iterator[None]:
        ray = pytest.importorskip("ray")
        # Without a token, which Ray would write to the home folder.
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[1]), *sys.path])
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}},
        )  # fmt: skip
        yield
        ray.shutdown()

    def test_tasks_of_lost_workers_are_done_once_more(self, tmp_path: Path) -> None:
        found = list(run_shards(DieOnce(tmp_path, frozenset({0, 3, 4, 7, 9})), range(10), RAY))
        assert sorted(found) == [number * number for number in range(10)]

    def test_a_task_that_always_ends_its_worker(self, tmp_path: Path) -> None:
        with pytest.raises(AceFinetuneError, match=f"{ATTEMPTS} Ray workers were lost while working on the same shard"):
            list(run_shards(DieOnce(tmp_path, frozenset({2}), always=True), range(4), RAY))

    def test_an_error_of_the_work_is_raised_as_it_is(self) -> None:
        with pytest.raises(ModelError, match=r"^The task [12] is wrong; correct it\.$"):
            list(run_shards(Fail(), [1, 2], RAY))

    def test_encoding_gives_the_bytes_of_the_loop(self, tmp_path: Path) -> None:
        model = tiny_model(tmp_path / "tiny")
        texts = [f"text {n} " * (1 + n % 7) for n in range(90)]
        pq.write_table(pa.table({"id": [str(n) for n in range(90)], "text": texts}), tmp_path / "in.parquet")
        options = {"model": model, "device": "cpu", "precision": "float32", "shard_rows": 20}
        encode(tmp_path / "in.parquet", tmp_path / "loop", **options)  # type: ignore[arg-type]
        encode(tmp_path / "in.parquet", tmp_path / "ray", engine=RAY, **options)  # type: ignore[arg-type]
        assert len(ShardFolder.open(tmp_path / "ray")) == 5
        for file in (tmp_path / "loop").glob("*.parquet"):
            assert file.read_bytes() == (tmp_path / "ray" / file.name).read_bytes()
