"""Embeds a folder on a Ray cluster, one shard a task, then merges the shards.

    python examples/cluster/ray_embed.py FOLDER OUTPUT --shards 16 [--address auto] [-- ARGUMENTS OF embed]

All nodes must see the same folder and the same output directory, and have clip-cli (or --program) in the same place.
A task whose node is lost is started again elsewhere and goes on where it stopped. Without --address, `--local-nodes N`
starts a cluster of N nodes on this machine.
"""

import argparse
import pathlib
import subprocess
import sys

import ray


def shard_name(output: pathlib.Path, index: int, count: int) -> pathlib.Path:
    return output.with_name(f"{output.stem}-{index:05}-of-{count:05}{output.suffix}")


def run(command: list[str]) -> None:
    """Exit code 1 says that some items failed; they are in the output."""
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


@ray.remote(max_retries=5, retry_exceptions=True)
def embed(program: str, folder: str, output: str, index: int, count: int, threads: int, more: list[str]) -> tuple[int, str]:
    if not shard_name(pathlib.Path(output), index, count).exists():
        run([program, "embed", folder, "--shard", f"{index}/{count}", "--output", output, "--resume",
             "--threads", str(threads), *more])
    return index, ray.get_runtime_context().get_node_id()


def main() -> None:
    arguments, more = sys.argv[1:], []
    if "--" in arguments:
        place = arguments.index("--")
        arguments, more = arguments[:place], arguments[place + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--shards", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1, help="threads, and processors, of each task")
    parser.add_argument("--address", help="of a running cluster; auto finds it")
    parser.add_argument("--local-nodes", type=int, default=2)
    parser.add_argument("--program", default="clip-cli")
    options = parser.parse_args(arguments)

    cluster = None
    if options.address:
        ray.init(address=options.address)
    else:
        from ray.cluster_utils import Cluster

        resources = {"num_cpus": options.threads, "object_store_memory": 80 << 20}
        cluster = Cluster(initialize_head=True, head_node_args={**resources, "include_dashboard": False})
        for _ in range(options.local_nodes - 1):
            cluster.add_node(**resources)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address)

    folder, output = str(pathlib.Path(options.folder).resolve()), options.output.resolve()
    task = embed.options(num_cpus=options.threads, scheduling_strategy="SPREAD")
    waiting = [
        task.remote(options.program, folder, str(output), index, options.shards, options.threads, more)
        for index in range(1, options.shards + 1)
    ]
    nodes: dict[str, int] = {}
    while waiting:
        ready, waiting = ray.wait(waiting)
        index, node = ray.get(ready[0])
        nodes[node] = nodes.get(node, 0) + 1
        print(f"shard {index}/{options.shards} done on node {node[:8]}", flush=True)
    shards = [str(shard_name(output, index, options.shards)) for index in range(1, options.shards + 1)]
    run([options.program, "merge", *shards, "--output", str(output)])
    print(f"{output}: {options.shards} shards from {len(nodes)} nodes")
    ray.shutdown()
    if cluster:
        cluster.shutdown()


if __name__ == "__main__":
    main()
