from __future__ import annotations

import pytest
from production.fixed_retriever import FixedRetriever

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.user_split import UserSplit, assign_user


def test_users_are_spread_evenly_and_independently_of_another_salt() -> None:
    users = [f"user {number}" for number in range(4000)]
    first = [assign_user(user, salt="one", fraction=0.3) == "b" for user in users]
    second = [assign_user(user, salt="two", fraction=0.3) == "b" for user in users]
    assert sum(first) / 4000 == pytest.approx(0.3, abs=0.03)
    assert sum(a and b for a, b in zip(first, second, strict=True)) / 4000 == pytest.approx(0.09, abs=0.02)


def test_team_is_the_same_in_every_process_and_version() -> None:
    """Python's own hash of a text differs between processes; users must not change sides at a restart."""
    teams = "".join(assign_user(f"user {number}", salt="a salt") for number in range(40))
    assert teams == "abbabbbbbaababbabbbaabbaaabababaabaabbaa"


async def test_user_always_gets_the_same_system_and_its_id_is_not_logged(log: QueryLog) -> None:
    split = UserSplit(FixedRetriever("x"), FixedRetriever("y"), query_log=log)
    for user in ("anna@example.org", "ben@example.org"):
        expected = {"a": "x", "b": "y"}[assign_user(user, salt="comparison")]
        assert split.for_user(user).retrieve("a query")[0].node.node_id == expected
        assert (await split.for_user(user).aretrieve("a query"))[0].node.node_id == expected
    records = list(log.records())
    assert len({record.user for record in records}) == 2
    assert "@" not in "".join(str(record.user) for record in records)
    assert all(record.team == record.hits[0].team for record in records)


def test_bad_input() -> None:
    with pytest.raises(AceFinetuneError, match="fraction of users for B is 1"):
        UserSplit(FixedRetriever("x"), FixedRetriever("y"), fraction=1.0)
    for user in ("", None, 3):
        with pytest.raises(AceFinetuneError, match="user id"):
            assign_user(user, salt="s")  # type: ignore[arg-type]
