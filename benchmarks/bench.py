"""
Compares aiopyramid with its peers, side by side, by the CPU time of the server.

    hatch run bench:run                                     # everything
    hatch run bench:run http echo --rounds 1 --seconds 1    # some of it, and quickly
    hatch run bench:run --write                             # for the documentation

It needs Linux, two cores, and wrk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence

import fan_out
import memory
import report
from http_load import check_wrk
from measure import CLIENT_CORE, SERVER_CORE, measure, median, ratio
from peers import Environment, Peer
from tables import GROWTH, IDLE, TABLES, WEBSOCKET_PEERS, Growth, Table

GROUPS = ("http", "waiting", "echo", "handshake", "memory", "growth", "fan-out")


def run_table(table: Table, args: argparse.Namespace) -> None:
    cells = [(peer, table.load) for peer in table.peers]
    results = measure(cells, args.rounds, args.seconds)
    compared = fan_out.compared if table.group == "fan-out" else report.compared
    parts = [compared(table, results), report.pairs(table, results)]
    report.show(table.title, *parts[0])
    if parts[1][1]:
        report.show("Besides", *parts[1])
    if args.write:
        works = table.work.removesuffix("y") + "ies" if table.work[-1] == "y" else f"{table.work}s"
        title = f"{table.title}: {works} a CPU second, {table.peers[0].label} = 1"
        ratios = [ratio(samples, results[0]) for samples in results]
        labels = [peer.label for peer in table.peers]
        plot = report.bars(title, dict(zip(labels, ratios, strict=True)))
        end = report.conditions(table.peers, f"{args.rounds} rounds of {args.seconds} s")
        report.write(table.name, table.title, parts, end, plot)


def run_growth(growth: Growth, args: argparse.Namespace) -> None:
    cells = [cell for row in growth.rows.values() for cell in row]
    medians = map(median, measure(cells, args.rounds, args.seconds))
    values = {label: [next(medians) for _ in row] for label, row in growth.rows.items()}
    title = f"{growth.title}: CPU µs a {growth.work}"
    end = report.conditions(
        [peer for peer, _ in cells], f"median of {args.rounds} rounds of {args.seconds} s"
    )
    show_grid(growth.name, title, growth.columns, values, end, args.write)


def run_memory(args: argparse.Namespace) -> None:
    limit = memory.raise_limit()
    numbers = [number for number in IDLE if number + 100 <= limit]
    for number in set(IDLE) - set(numbers):
        print(f"{number} idle WebSockets are left out: only {limit} files may be open (ulimit -n)")
    if not numbers:
        return
    rounds = min(args.rounds, 3)  # these differ little

    def median_of(peer: Peer, number: int) -> float:
        return statistics.median(memory.idle(peer, number) for _ in range(rounds))

    values = {peer.label: [median_of(peer, n) for n in numbers] for peer in WEBSOCKET_PEERS}
    columns = [f"{number:,}" for number in numbers]
    title = "KiB of memory for each idle WebSocket, by their number"
    end = report.conditions(WEBSOCKET_PEERS, f"median of {rounds} fresh servers")
    show_grid("memory", title, columns, values, end, args.write)


def show_grid(
    name: str,
    title: str,
    columns: Sequence[str],
    values: dict[str, list[float]],
    end: str,
    write: bool,
) -> None:
    heads = ["", *columns]
    rows = [[label, *map(report.number, row)] for label, row in values.items()]
    report.show(title, heads, rows)
    if write:
        plot = report.lines(title, columns, values)
        report.write(name, title, [(heads, rows)], end, plot)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare aiopyramid with its peers.")
    parser.add_argument("groups", nargs="*", metavar="group", help=", ".join(GROUPS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each server in a round")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks/")
    args = parser.parse_args()
    groups = args.groups or GROUPS
    if unknown := set(groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    if CLIENT_CORE == SERVER_CORE:
        parser.error("needs two cores: one for the server, one for the client")
    if {"http", "waiting", "growth"} & set(groups):
        check_wrk()

    tables = [table for table in (*TABLES, *fan_out.TABLES) if table.group in groups]
    redis_tables = fan_out.REDIS_TABLES if "fan-out" in groups else ()
    growths = GROWTH if "growth" in groups else ()
    used = {peer.environment for table in (*tables, *redis_tables) for peer in table.peers}
    used |= {cell[0].environment for each in growths for row in each.rows.values() for cell in row}
    if "memory" in groups:
        used |= {peer.environment for peer in WEBSOCKET_PEERS}
    environments: list[Environment] = sorted(used, key=lambda each: each.name)
    for environment in environments:
        environment.make()

    os.sched_setaffinity(0, {CLIENT_CORE})
    start = time.monotonic()
    if "fan-out" in groups:
        memory.raise_limit()
    for table in tables:
        run_table(table, args)
    if redis_tables:
        with fan_out.redis() as runs:
            if not runs:
                print("two workers are left out: needs Debian's package redis-server")
            for table in redis_tables if runs else ():
                run_table(table, args)
    if "memory" in groups:
        run_memory(args)
    for growth in growths:
        run_growth(growth, args)
    print(f"{(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
