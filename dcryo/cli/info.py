"""Say what a store holds: particles, optics, half sets, or the volumes and results of a run.

    dcryo info particles.zarr
    dcryo info run.zarr --json
    dcryo info s3://bucket/particles.zarr

With --json also the provenance: the files, options and version that a store was made with.
"""

from __future__ import annotations

import argparse
from typing import Any

from dcryo.cli import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dcryo info``."""
    parser.add_argument("store", metavar="STORE", help="a particle store or a run")


def run(args: argparse.Namespace) -> int:
    """Open the store, whichever kind it is, and print."""
    from dcryo.io.store_root import kind_of

    if kind_of(args.store) == "run":
        return _run_info(args)
    return _particles_info(args)


def _particles_info(args: argparse.Namespace) -> int:
    from dcryo.io.particle_store import open_particles

    info = open_particles(args.store).info()
    if args.json:
        console.print_json(info)
        return 0
    rows: list[tuple[str, Any]] = [
        ("particle store", info["url"]),
        ("particles", info["count"]),
        ("box", f"{info['box']} pixels of {info['pixel_size_A']:g} Å"),
        ("half sets", info["halves"]),
        ("with pose", info["poses"]),
        ("micrographs", info["micrographs"] or None),
        ("sources", info["sources"] or None),
        ("truth", info["truth"] or None),
        ("images", f"{info['dtype']}, chunks of {info['chunk']}, shards of {info['shard']} particles"),
        ("size", console.byte_size(info["size_bytes"])),
    ]
    console.print_table(rows + [("optics group", _optics_line(group)) for group in info["optics"]])
    return 0


def _optics_line(group: dict[str, Any]) -> str:
    line = f"{group['name']}: {group['count']} particles, {group['pixel_size']:g} Å per pixel"
    if group["ctf"]:
        line += (
            f", {group['voltage']:g} kV, Cs {group['cs'] * 1e-7:g} mm, "
            f"amplitude contrast {group['amplitude_contrast']:g}"
        )
    else:
        line += ", no CTF"
    return line + ("" if group["noise"] else ", noise not known")


def _run_info(args: argparse.Namespace) -> int:
    from dcryo.io.run_store import open_run

    store = open_run(args.store)
    attributes = dict(store.attributes)
    volumes = store.volumes()
    iterations = store.pose_iterations()
    if args.json:
        parts = {"volumes": volumes, "pose_iterations": iterations}
        console.print_json({"kind": "run", "url": args.store, **parts, **attributes})
        return 0
    console.print_table(
        [
            ("run", args.store),
            ("complete", store.complete),
            ("volumes", list(volumes)),
            ("poses of iterations", iterations or None),
            *console.result_rows(attributes.get("result") or {}),
        ]
    )
    return 0
