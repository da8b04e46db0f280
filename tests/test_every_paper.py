"""Every paper keeps the contract: present and future rooms have the same furniture."""

from __future__ import annotations

from repertory import contract


@contract.parametrize()
def test_contract(paper: str, check: contract.Check) -> None:
    check(paper)
