"""``bridge-cli verify-isolation``: the leak matrix, run for real on the user's own machine."""

from __future__ import annotations

import secrets
from typing import Any

import click

from dspy_bridge import jsonlib
from dspy_bridge.client import Client


def run(client: Client, *, skip: list[str]) -> list[dict[str, Any]]:
    """One row per piece of global state: ``planted`` (the probe works), ``leaked`` and ``changed``.

    Two sessions that live at once; the first plants a canary everywhere. It leaks if the second, or a
    third that is started only afterwards, reads anything else than it would have.
    """
    canary = secrets.token_hex(8)
    for session in ("planter", "witness"):
        client.call("start_session", {}, session=session)
    before = client.call("probe_isolation", {"skip": skip}, session="witness")["reads"]
    clean = client.call("probe_isolation", {"skip": skip}, session="planter")["reads"]
    planted = client.call("probe_isolation", {"canary": canary, "skip": skip}, session="planter")["reads"]
    after = client.call("probe_isolation", {"skip": skip}, session="witness")["reads"]
    client.call("start_session", {}, session="newcomer")
    later = client.call("probe_isolation", {"skip": skip}, session="newcomer")["reads"]
    rows = []
    for name, value in planted.items():
        leaked = value in (after[name], later[name]) or canary in after[name] + later[name]
        works = value != clean[name]
        changed = before[name] != after[name]
        rows.append({"state": name, "planted": works, "leaked": leaked, "changed": changed})
    for session in ("planter", "witness", "newcomer"):
        client.call("end_session", session=session)
    return rows


@click.command("verify-isolation")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--skip", multiple=True, metavar="MODULE", help="Leave out a module's probes (litellm takes seconds).")
def command(as_json: bool, skip: tuple[str, ...]) -> None:
    """Plant a canary in everything global of one session; look for it in a sibling and in a later one.

    Exits 1 if anything leaked.
    """
    with Client.spawn() as client:
        rows = run(client, skip=list(skip))
    failed = [row for row in rows if row["leaked"] or row["changed"] or not row["planted"]]
    if as_json:
        click.echo(jsonlib.dumps({"ok": not failed, "rows": rows}, option=jsonlib.OPT_INDENT_2))
    else:
        for row in rows:
            bad = row in failed
            verdict = "LEAKED" if row["leaked"] or row["changed"] else "isolated" if row["planted"] else "not planted"
            click.secho(f"{verdict:<12} {row['state']}", fg="red" if bad else "green")
        click.echo(f"\n{len(rows) - len(failed)} of {len(rows)} pieces of global state are isolated")
    raise SystemExit(1 if failed else 0)
