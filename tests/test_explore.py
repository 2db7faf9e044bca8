"""The pages of `explore`: what they show is what the recommender serves, and what an earlier state served."""

import dataclasses
import datetime
import html
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from daily_run import ROWS, TRAINED, day, make_run, of_days, publish, users_of

from pinnerformer_jax import explore
from pinnerformer_jax.retrieval.priors import Priors, write_priors
from pinnerformer_jax.serving.explorer import Edit, Explorer
from pinnerformer_jax.serving.explorer_app import time_line
from pinnerformer_jax.serving.look_back import audit, end_of, look_back
from pinnerformer_jax.serving.recommender import Recommender
from pinnerformer_jax.serving.shop_rules import ShopRules
from pinnerformer_jax.serving.why import Explainer

LENGTH, EARLIER = 12, 3
MISSING = "no model at hand"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(workdir, snapshots, snapshots of the same run as of its fourth day)."""
    folder = tmp_path_factory.mktemp("explore")
    workdir = make_run(folder, ROWS, max_length=LENGTH)
    write_priors(workdir, Priors(0.4, 20.0, 0.2, 5.0, 0.6), 1, "by hand")
    publish(workdir, folder / "snapshots", date=day(TRAINED - 1), dtype="float32")
    publish(workdir, folder / "earlier", date=day(EARLIER), dtype="float32")
    return workdir, folder / "snapshots", folder / "earlier"


@pytest.fixture
def explorer(world):
    """With the model, and each item in the category of its last digit."""
    recommender = Recommender.open(world[1])
    category = {f"i{n}": f"c{n % 10}" for n in range(20)}
    return Explorer(recommender, Explainer.open(world[0], recommender.refresh()), MISSING, category)


@pytest.fixture
def client(explorer):
    """Of the pages, by the name that a browser on this machine has for them."""
    return client_of(explorer)


def client_of(explorer):
    pytest.importorskip("starlette", reason="needs the extra explore")
    pytest.importorskip("httpx2", reason="needs httpx2")
    from starlette.testclient import TestClient

    from pinnerformer_jax.serving.explorer_app import make_app

    return TestClient(make_app(explorer), base_url="http://127.0.0.1:8080", follow_redirects=False)


def longest(snapshots):
    table = users_of(snapshots)[1]
    return max(table.to_pylist(), key=lambda user: (user["n_events"], user["user_id"]))["user_id"]


def test_an_unedited_user_sees_what_is_served_and_its_parts_add_up(world, explorer):
    for user in list(users_of(world[1])[0])[:8]:
        found = explorer.recommender.recommend(user, 10)
        page = explorer.user_page(user, Edit())
        assert [of.item for of in page.shown] == found.items
        assert [of.inner + of.own + of.popularity for of in page.shown] == pytest.approx(
            [item.score for item in found.items], abs=1e-5
        )
        wanted = explorer._explainer.reasons(explorer.recommender, user, found)
        assert [of.reasons for of in page.shown] == wanted
        assert len(page.events) == len([row for row in of_days(ROWS, 0, TRAINED) if row["user"] == user])
        assert not page.compared
    hidden = explorer.user_page(user, Edit(hide_seen=True))
    assert [of.item for of in hidden.shown] == explorer.recommender.recommend(
        user, 10, exclude_seen=True
    ).items


def test_a_day_gives_what_the_state_of_that_day_served(world, explorer):
    """Also where the user had too few events then."""
    earlier = Recommender.open(world[2])
    cold = 0
    for user in users_of(world[1])[0]:
        wanted = earlier.recommend(user, 10)
        page = explorer.user_page(user, Edit(as_of=day(EARLIER)))
        assert page.cold == wanted.cold
        cold += page.cold
        if not page.cold:
            assert [of.item.id for of in page.shown] == [item.id for item in wanted.items]
            scores = [of.item.score for of in page.shown]
            assert scores == pytest.approx([item.score for item in wanted.items], abs=1e-4)
            later = {row["item"] for row in of_days(ROWS, EARLIER + 1, TRAINED) if row["user"] == user}
            assert {of.item.id for of in page.shown if of.later} <= later
    assert 0 < cold < len(users_of(world[1])[0])


def test_left_out_events_are_as_if_they_had_never_been(world, explorer, tmp_path):
    """All events after the day, ticked one by one, against the day; but popularity keeps them."""
    user = longest(world[1])
    events = explorer.user_page(user, Edit()).events
    late = {event.key for event in events if event.time.timestamp() >= end_of(day(EARLIER))}
    assert late
    ticked = explorer.user_page(user, Edit(without=frozenset(late), k=20))
    dated = explorer.user_page(user, Edit(as_of=day(EARLIER), k=20))
    assert [event.kept for event in ticked.events] == [event.kept for event in dated.events]
    inner = [{of.item.id: of.inner for of in page.shown} for page in (ticked, dated)]
    assert inner[0] == pytest.approx(inner[1], abs=1e-5)
    whole = [item.id for item in explorer.recommender.recommend(user, 20).items]
    assert ticked.compared
    for of in ticked.shown:
        assert of.before == whole.index(of.item.id) + 1
    short = explorer.user_page(user, Edit(without=frozenset(late), k=3))
    now = {of.item.id: rank for rank, of in enumerate(ticked.shown, 1)}
    wanted = [(item, rank, now[item]) for rank, item in enumerate(whole[:3], 1) if now[item] > 3]
    assert [(item.id, before, rank) for item, before, rank in short.dropped] == wanted


def test_events_of_one_moment_are_told_apart(explorer, monkeypatch):
    loaded = explorer.recommender.refresh()
    user = longest(loaded.folder.parents[2])
    table = loaded.events.of(user)
    same = table.set_column(3, "micros", pa.array([table["micros"][0].as_py()] * len(table)))
    monkeypatch.setattr(loaded.events, "of", lambda user: same)
    events = explorer.user_page(user, Edit()).events
    assert len({event.key for event in events}) == len(events)
    page = explorer.user_page(user, Edit(without=frozenset({events[1].key})))
    assert [event.kept for event in page.events].count(False) == 1
    assert not page.events[1].kept


def test_a_category_and_the_rules_of_the_shop_hold_for_edits_too(world, explorer):
    user = longest(world[1])
    explorer.recommender.rules = ShopRules(block=["i3"])
    for edit in (Edit(category="c3"), Edit(category="c3", as_of=day(EARLIER))):
        page = explorer.user_page(user, edit)
        assert [of.item.id for of in page.shown] == ["i13"]
        assert page.shown[0].category == "c3"
    for edit in (Edit(k=20), Edit(k=20, as_of=day(EARLIER))):
        assert "i3" not in {of.item.id for of in explorer.user_page(user, edit).shown}


def test_looking_back_at_the_state_itself_changes_nothing(world, explorer):
    loaded = explorer.recommender.refresh()
    then = look_back(loaded, end_of(loaded.manifest.date))
    np.testing.assert_allclose(then.popularity, loaded.popularity, rtol=1e-9)
    assert then.counting == loaded.counting
    assert len(then.later) == 0


def test_badly_served_users_are_those_whom_the_earlier_state_missed(world, explorer):
    loaded, earlier = explorer.recommender.refresh(), Recommender.open(world[2])
    then = look_back(loaded, end_of(day(EARLIER)))
    rows = of_days(ROWS, EARLIER + 1, TRAINED)
    active = {row["user"] for row in rows}
    gone = min(active)
    found = audit(loaded, explorer._explainer, then, 3, 99, 0, {gone})
    assert found.active == found.drawn == len(active) - 1
    wanted = {}
    for user in active - {gone}:
        ranked = earlier.recommend(user, 20)
        if not ranked.cold:
            ranks = {item.id: rank for rank, item in enumerate(ranked.items, 1)}
            wanted[user] = [ranks[item] for item in {row["item"] for row in rows if row["user"] == user}]
    assert {user.user_id for user in found.users} == set(wanted)
    assert found.cold == found.drawn - len(wanted) > 0
    for user in found.users:
        ranks = wanted[user.user_id]
        assert (user.items, user.best) == (len(ranks), min(ranks))
        assert user.found == sum(rank <= 3 for rank in ranks)
    shares = [user.found / user.items for user in found.users]
    assert shares == sorted(shares)
    assert found.recall == pytest.approx(np.mean(shares))
    assert found.missed == shares.count(0)
    some = audit(loaded, explorer._explainer, then, 3, 5, 0, set())
    assert (some.drawn, some.active) == (5, len(active))


def test_what_a_user_had_is_hidden_where_it_is_served_so(world, explorer, client):
    loaded, earlier = explorer.recommender.refresh(), Recommender.open(world[2])
    loaded.priors = dataclasses.replace(loaded.priors, hide_seen=True)
    user = longest(world[1])
    had = {row["item"] for row in of_days(ROWS, 0, TRAINED) if row["user"] == user}
    assert not had & {of.item.id for of in explorer.user_page(user, Edit()).shown}
    assert had & {of.item.id for of in explorer.user_page(user, Edit(hide_seen=False)).shown}
    for asked, shown in (("", "hidden, as served"), ("&hide_seen=1", "hidden"), ("&hide_seen=0", "shown")):
        text = client.get(f"/user?id={user}{asked}").text
        assert '<option value="">hidden, as served</option>' in text
        assert not asked or f" selected>{shown}</option>" in text
    then = look_back(loaded, end_of(day(EARLIER)))
    for of in audit(loaded, explorer._explainer, then, 3, 99, 0, set()).users:
        best = {item.id for item in earlier.recommend(of.user_id, 3, exclude_seen=True).items}
        rows = of_days(ROWS, EARLIER + 1, TRAINED)
        assert of.found == len(best & {row["item"] for row in rows if row["user"] == of.user_id})


def test_the_time_line_has_every_event_once(world, explorer):
    page = explorer.user_page(longest(world[1]), Edit(as_of=day(EARLIER)))
    line = time_line(page.events)
    told = [int(re.search(r": (\d+) ", bar.tip)[1]) for bar in line.bars]
    assert sum(told) == sum(count for *_, count in line.legend) == len(page.events)
    left_out = sum(n for n, bar in zip(told, line.bars, strict=True) if not bar.kept)
    assert left_out == sum(not event.kept for event in page.events)
    assert all(0 <= bar.y <= bar.y + bar.height <= 100.01 for bar in line.bars)
    old = dataclasses.replace(page.events[0], time=page.events[0].time - datetime.timedelta(3000))
    long = time_line([old, *page.events])
    assert len({bar.x for bar in long.bars}) <= 70
    assert long.days > 1
    assert sum(count for *_, count in long.legend) == len(page.events) + 1


def test_each_page_answers_and_links_lead_on(world, client):
    home = client.get("/")
    assert home.status_code == 200
    assert "default-src 'none'" in home.headers["content-security-policy"]
    seen, waiting, kinds = {"/"}, ["/"], Counter()
    while waiting:
        path = waiting.pop(0)
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert "http://" not in answer.text  # nothing from elsewhere
        assert "style=" not in answer.text  # the policy would forbid it
        for link in re.findall(r'(?:href|src)="(/[^"]*)"', answer.text):
            address = html.unescape(link)
            kind = address.partition("?")[0]
            if address not in seen and kinds[kind] < 8:
                kinds[kind] += 1
                seen.add(address)
                waiting.append(address)
    assert set(kinds) == {"/", "/user", "/item", "/badly-served", "/explorer.css"}


def test_a_search_finds_users_by_their_beginning_and_items_by_title(world, client):
    text = client.get("/?q=u00").text
    users = [user for user in users_of(world[1])[0] if user.startswith("u00")]
    assert all(f"/user?id={user}" in text for user in users)
    only = client.get(f"/?q={users[0]}")
    assert (only.status_code, only.headers["location"]) == (303, f"/user?id={users[0]}")
    assert "/item?id=i7" in client.get("/?q=i7").text


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/user?id=nobody", 404, "no event of this user"),
        ("/user?id=", 404, "no event of this user"),
        ("/user?id=u000&as_of=yesterday", 400, "write a day"),
        ("/user?id=u000&as_of=2199-01-01", 400, "the state ends with"),
        ("/user?id=u000&k=0", 400, "whole number from 1 to 100"),
        ("/user?id=u000&k=ten", 400, "whole number from 1 to 100"),
        ("/item?id=nothing", 404, "no vector of this item"),
        ("/badly-served?days=9999", 400, "from 1 to 365"),
        ("/?users=all", 400, "must be most, fewest or random"),
        ("/nowhere", 404, "no such page"),
    ],
)
def test_wrong_addresses_say_what_is_wrong(client, path, status, says):
    answer = client.get(path)
    assert answer.status_code == status
    assert says in answer.text


def test_what_comes_from_the_data_is_escaped(world, explorer, client):
    loaded = explorer.recommender.refresh()
    evil = "<script>alert(1)</script>\"'&"
    column = loaded.items.schema.get_field_index("title")
    loaded.items = loaded.items.set_column(column, "title", pa.array([evil] * len(loaded.items)))
    explorer.category = dict.fromkeys(explorer.category, evil)
    user = longest(world[1])
    for path in (f"/user?id={user}", "/item?id=i1", "/?q=script", "/?q=<script>x", "/user?id=<script>x"):
        text = client.get(path).text
        assert "<script" not in text, path
        assert "&lt;script&gt;" in text, path


def test_other_host_names_and_methods_are_refused(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"host": "localhost:1234"}).status_code == 200
    assert client.post("/").status_code == 405


def test_deleted_users_are_not_shown(world, explorer, client, monkeypatch):
    user = re.findall(r'/user\?id=([^"]*)"', client.get("/").text)[0]
    monkeypatch.setattr(explorer.recommender, "deleted_users", lambda: {user})
    assert f'id={user}"' not in client.get("/").text
    assert client.get(f"/user?id={user}").status_code == 404
    assert f"id={user}&" not in client.get("/badly-served?sample=99").text


def test_without_the_run_edits_are_off_and_the_page_says_why(world, explorer):
    bare = Explorer(explorer.recommender, None, MISSING, {})
    client, user = client_of(bare), longest(world[1])
    text = client.get(f"/user?id={user}&as_of={day(EARLIER)}").text
    assert MISSING in text
    assert 'name="without"' not in text
    assert 'name="as_of"' not in text
    served = [item.id for item in explorer.recommender.recommend(user, 10).items]
    assert [of.item.id for of in bare.user_page(user, Edit(as_of=day(EARLIER))).shown] == served
    assert MISSING in client.get("/badly-served").text


def test_the_command_line_opens_state_run_and_topics(world, tmp_path):
    table = tmp_path / "categories.csv"
    table.write_text("item,kind\ni1,red\ni2,blue\n")
    flags = ["--snapshots", str(world[1]), "--workdir", str(world[0])]
    values = explore._parser().parse_args([*flags, "--category-of", str(table), "item", "kind"])
    found = explore.open_explorer(values)
    assert found.categories() == ["blue", "red"]
    assert found.recommender.rules is None
    assert found.explainer(found.recommender.refresh())[0] is not None


def test_a_missing_package_is_named_with_the_cure(world, monkeypatch, capsys):
    monkeypatch.setattr(explore, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        explore.main(["--snapshots", str(world[1])])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "error: explore needs starlette, uvicorn: pip install 'pinnerformer_jax[explore]'\n"
    )


@pytest.mark.slow
def test_a_browser_clicks_through_at_desktop_and_phone_width(world, tmp_path):
    """The verb itself, in a process of its own, and Chromium."""
    pytest.importorskip("starlette", reason="needs the extra explore")
    pytest.importorskip("uvicorn", reason="needs the extra explore")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    workdir, snapshots, _ = world
    command = [sys.executable, "-m", "pinnerformer_jax.explore", "--port", "0"]
    command += ["--snapshots", str(snapshots), "--workdir", str(workdir)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    ) as server:
        try:
            address = next(
                re.findall(r"http://127.0.0.1:\d+/", line) for line in server.stdout if "http" in line
            )[0]
            with playwright.sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                for width in (1280, 430):
                    page = browser.new_page(viewport={"width": width, "height": 900})
                    click_through(page, address, longest(snapshots))
                browser.close()
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(20) == 0


def click_through(page, address, user):
    """Search, leave an event out, go back a week, follow an item, find the badly served."""
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    asked = []
    page.on("request", lambda request: asked.append(request.url))

    def no_overflow():
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), page.url

    page.goto(address)
    no_overflow()
    page.get_by_role("searchbox").fill(user)
    page.get_by_role("button", name="Search").click()
    assert page.get_by_role("heading", level=1).inner_text() == f"User {user}"
    no_overflow()
    assert page.locator("svg.line rect").count() > 0
    assert page.locator(".why li").count() > 0
    assert page.locator(".move").count() == 0
    page.locator(".events input").first.check()
    page.get_by_role("button", name="Leave out what is ticked").click()
    assert "without=" in page.url
    assert page.locator(".events input").first.is_checked()
    assert page.locator(".events .gone").count() == 1
    assert page.locator("svg.line rect.out").count() == 1
    no_overflow()
    page.get_by_role("link", name="Reset").click()
    assert page.locator(".gone").count() == 0
    page.get_by_role("link", name="a week before").click()
    assert "as_of=" in page.url
    assert page.locator(".events .gone").count() > 0
    page.locator(".items a").first.click()
    assert page.get_by_role("heading", name="Nearest items").is_visible()
    no_overflow()
    page.get_by_role("link", name="Badly served").click()
    assert page.get_by_role("heading", name="Worst served first").is_visible()
    no_overflow()
    page.locator("tbody a").first.click()
    assert page.get_by_role("heading", level=1).inner_text().startswith("User u")
    assert complaints == []
    assert all(url.startswith((address, "data:")) for url in asked)
