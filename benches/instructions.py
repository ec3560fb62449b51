#!/usr/bin/env python3
"""Counts instructions of clip-cli on processors that this one need not be, by QEMU's user-mode emulation.

    python3 benches/instructions.py target/release/clip-cli photo.jpg [--model DIR] [--counts 1000 5000 20000]

Two tables: one image for each processor (seconds, instructions, and how far the embedding is from the one computed without
emulation), and many images on the portable path (instructions an image, and the most memory without emulation). Counts are
those of all threads with `--threads 1`; two runs differ by less than one in a thousand, since threads wait for each other,
and the less the more they compute.

Needs `qemu-x86_64` (Debian: qemu-user) built with plugins, as most are, and a C compiler. QEMU has no AVX-512: `Haswell`
takes the AVX2 kernels and `Nehalem`, which has no AVX, the portable ones. Emulated multiply-adds of AVX2 are slow (ten
times as slow as the portable path's), so many images are counted on the latter. `erms=off` keeps the C library from copies
by `rep movsb`, which QEMU counts once a byte.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile

PLUGIN = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef uint64_t id;
struct qemu_plugin_tb;
extern void qemu_plugin_register_vcpu_tb_trans_cb(id, void (*)(id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
extern void qemu_plugin_register_atexit_cb(id, void (*)(id, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
int qemu_plugin_version = API;
static struct { uint64_t count; char line[56]; } threads[1024];
static char *to;
static void run(unsigned thread, void *count) { threads[thread % 1024].count += (uintptr_t)count; }
static void translated(id self, struct qemu_plugin_tb *block) {
    qemu_plugin_register_vcpu_tb_exec_cb(block, run, 0, (void *)qemu_plugin_tb_n_insns(block));
}
static void ended(id self, void *nothing) {
    uint64_t sum = 0;
    for (int i = 0; i < 1024; i++) sum += threads[i].count;
    FILE *file = fopen(to, "w");
    if (file) { fprintf(file, "%llu\n", (unsigned long long)sum); fclose(file); }
}
int qemu_plugin_install(id self, const void *info, int argc, char **argv) {
    if (argc != 1 || strncmp(argv[0], "to=", 3)) return 1;
    to = strdup(argv[0] + 3);
    qemu_plugin_register_vcpu_tb_trans_cb(self, translated);
    qemu_plugin_register_atexit_cb(self, ended, NULL);
    return 0;
}
"""
PROCESSORS = {"AVX2": "Haswell,erms=off", "portable": "Nehalem,erms=off"}


def build(folder):
    """The plugin, with the first version of the interface that this QEMU takes."""
    source = os.path.join(folder, "count.c")
    with open(source, "w") as file:
        file.write(PLUGIN)
    for api in range(1, 10):
        plugin = os.path.join(folder, f"count-{api}.so")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", f"-DAPI={api}", "-o", plugin, source], check=True)
        if subprocess.run(emulated(plugin, "max", folder) + ["/bin/true"], capture_output=True).returncode == 0:
            return plugin
    sys.exit("qemu-x86_64 takes no plugin: is it built with --enable-plugins?")


def emulated(plugin, processor, folder):
    return ["qemu-x86_64", "-cpu", processor, "-plugin", f"{plugin},to={folder}/count"]


def run(command, **options):
    """What a command writes, the seconds it computed, and the most memory it had (MB)."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, **options)
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(command)}\n{errors.read().decode()}")
    return output, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def counted(plugin, folder, processor, command, **options):
    output, seconds, _ = run(emulated(plugin, processor, folder) + command, **options)
    with open(os.path.join(folder, "count")) as file:
        return output, seconds, int(file.read())


def embedding(output):
    return json.loads(output.splitlines()[0])["embedding"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="clip-cli, built for release")
    about = "the first is the one image; many are taken from all of them, in turn"
    parser.add_argument("images", nargs="+", help=about)
    parser.add_argument("--model", help="a checkpoint, the smaller the better [default: the built-in model]")
    parser.add_argument("--counts", nargs="*", type=int, default=[], metavar="N", help="how many images, a row each")
    parser.add_argument("--options", default="", help="more options of `embed`, such as '--precision int8'")
    take = parser.parse_args()
    embed = [take.program, "--threads", "1", "embed", *take.options.split()]
    embed += ["--model", take.model] if take.model else []
    with tempfile.TemporaryDirectory() as folder:
        plugin = build(folder)
        here, _, _ = run(embed + [take.images[0]])
        print("| one image | instructions | again | seconds | largest difference | 1 - cosine |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name, processor in PROCESSORS.items():
            output, seconds, count = counted(plugin, folder, processor, embed + [take.images[0]])
            _, _, again = counted(plugin, folder, processor, embed + [take.images[0]])
            x, y = embedding(here), embedding(output)
            dot = lambda a, b: sum(i * j for i, j in zip(a, b))
            cosine = dot(x, y) / math.sqrt(dot(x, x) * dot(y, y))
            most = max(abs(a - b) for a, b in zip(x, y))
            cells = [f"{count:,}", f"{(again - count) / count:+.1e}", f"{seconds:.1f}", f"{most:.1e}", f"{1 - cosine:.1e}"]
            print("|", " | ".join([name, *cells]), "|", flush=True)
        if take.counts:
            print("\n| images | instructions | an image | an image more | MB without emulation |")
            print("| --- | --- | --- | --- | --- |")
        before = (0, 0)
        for images in take.counts:
            names = os.path.join(folder, "images.txt")
            with open(names, "w") as file:
                some = itertools.islice(itertools.cycle(take.images), images)
                file.writelines(f"{os.path.abspath(name)}\n" for name in some)
            command = lambda name: embed + ["--output", os.path.join(folder, f"{name}-{images}.npy"), "-"]
            with open(names) as file:
                _, _, count = counted(plugin, folder, PROCESSORS["portable"], command("emulated"), stdin=file)
            with open(names) as file:
                _, _, memory = run(command("here"), stdin=file)
            more = (count - before[1]) / (images - before[0])
            print(f"| {images:,} | {count:,} | {count / images:,.0f} | {more:,.0f} | {memory:.1f} |", flush=True)
            before = (images, count)


if __name__ == "__main__":
    main()
