"""Several people at one gateway's editor: changes that meet, merged in its own dialog; who may only look."""

from __future__ import annotations

from typing import Any

from tests.e2e.desk import DEPLOY, Desk
from tests.editors import PASSWORD, TAB, inject_to_debug

MERGE = "#red-ui-deploy-dialog-confirm-deploy-merge:not(.disabled)"
REVIEW = "#red-ui-deploy-dialog-confirm-deploy-review:not(.disabled)"
MERGE_REVIEWED = "#red-ui-diff-view-diff-merge:not(.disabled)"


def rename(at: Desk, id: str, name: str) -> None:
    """In the node's dialog."""
    at.edit(id)
    at.page.fill("#node-input-name", name)
    at.done()


def names(at: Desk) -> dict[str, str]:
    """What the gateway keeps."""
    return {id: node["name"] for id, node in at.stored().items() if "name" in node}


def deploy_too_late(at: Desk, told: Desk) -> None:
    """Press Deploy after another one did, which the editor has been told of."""
    told.deploy()
    at.notice("have been updated")
    at.page.click(DEPLOY)
    at.notice("more recent set of flows")


def test_changes_of_two_tabs_are_merged(desk: Any) -> None:
    first = desk([TAB, *inject_to_debug()[1:]]).open()
    second = desk(of=first).open()
    rename(first, "press", "theirs")
    rename(second, "show", "mine")
    added = second.drag("comment", 300, 300)
    deploy_too_late(second, first)
    second.page.locator(MERGE).wait_for()
    second.shot("merge-without-conflict")
    second.page.click(MERGE)
    assert second.is_dirty()
    second.deploy()
    assert names(second) == {"press": "theirs", "show": "mine", added: ""}
    second.expected("409")


def test_changes_of_two_tabs_that_do_not_fit_are_chosen_from(desk: Any) -> None:
    first = desk(inject_to_debug()).open()
    second = desk(of=first).open()
    page = second.page
    rename(first, "press", "theirs")
    rename(first, "show", "theirs too")
    rename(second, "show", "mine")
    added = second.drag("comment", 300, 300)
    deploy_too_late(second, first)
    page.click(REVIEW)
    page.locator(".red-ui-diff-list-flow-title", has_text="Flow 1").click()
    page.locator(".red-ui-diff-list-node-conflict").first.wait_for()
    assert page.locator(MERGE_REVIEWED).count() == 0  # first the conflict
    conflicts = page.locator(".red-ui-diff-list-flow .red-ui-diff-list-node-conflict.red-ui-diff-list-node")
    assert conflicts.count() == 1
    second.shot("conflict")
    page.check("#red-ui-diff-selectbox-show-local")
    second.shot("conflict-resolved")
    page.click(MERGE_REVIEWED)
    page.wait_for_selector(MERGE_REVIEWED, state="detached")
    second.deploy()
    assert names(second) == {"press": "theirs", "show": "mine", added: ""}
    second.expected("409")


def test_reader_looks_and_is_refused_a_deploy(desk: Any) -> None:
    at = desk(inject_to_debug(), users={"reader": "read", "writer": "*"})
    page = at.page
    page.goto(at.gateway.url)
    page.fill("#node-dialog-login-username", "reader")
    page.fill("#node-dialog-login-password", PASSWORD)
    at.shot("login")
    page.click("#node-dialog-login-submit")
    page.wait_for_selector(".red-ui-flow-node")
    page.locator(f".red-ui-deploy-button-group.readOnly {DEPLOY}.disabled").wait_for()
    at.shot("reader")
    before = at.gateway.store.rev
    # with the page's own token, past the button
    status = page.evaluate(
        "() => new Promise(done => $.ajax({url: 'flows', type: 'POST', contentType: 'application/json', data: '[]'})"
        ".always((answer, text, request) => done((answer.status || request.status))))"
    )
    assert status == 401
    assert at.gateway.store.rev == before
    token = at.gateway.login("reader")
    assert at.gateway.ask("POST", "/inject/press", token=token).status == 401
    at.expected("401")
