"""The pages of `explore` as a Starlette application. They are made here, need no script and no network, and
change nothing; all that they show is in their addresses.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from pinnerformer_jax.serving.explorer import Edit, Event, Explorer
from pinnerformer_jax.serving.look_back import days_before, end_of

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PAGES = Path(__file__).with_name("pages")

HEADERS = {
    # What comes from the data is escaped; should that ever fail, it still cannot run or load anything.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # addresses have user ids
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

MOST = {"k": 100, "days": 365, "sample": 2000, "events": 4096}
"""The largest numbers that a page takes."""

COLOURS = 5
BINS = 70
NEWEST = 40
"""Actions with a colour of their own; bars of a time line; events that a page lists at first."""


class Bar(NamedTuple):
    """A part of a bar of the time line: the events of one action in some days."""

    x: float  # these four in the units of the drawing
    y: float
    width: float
    height: float
    colour: int
    kept: bool
    tip: str


class TimeLine(NamedTuple):
    """What is drawn of a history."""

    bars: list[Bar]
    legend: list[tuple[str, int, int]]  # action, colour, events
    ticks: list[tuple[float, str]]  # place and day
    days: int  # of a bar
    most: int  # events of the highest bar


def make_app(explorer: Explorer, hosts: Sequence[str] = ("127.0.0.1", "localhost")) -> Starlette:
    """The application.

    Args:
        explorer: that knows all.
        hosts: names that a request may call this server by. Any other is refused, so that no foreign page can
            reach it under a name of its own (DNS rebinding).
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse
    from starlette.routing import Route

    env = Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    env.filters["query"] = _query

    def page(name: str, status: int = 200, **values: Any) -> Response:
        loaded = explorer.recommender.refresh()
        state = {
            "date": loaded.manifest.date,
            "model": loaded.model_version,
            "formula": loaded.priors.formula,
            "hides_seen": loaded.priors.hide_seen,
        }
        model, missing = explorer.explainer(loaded)
        values = {"state": state, "model": model is not None, "missing": missing, "q": "", **values}
        return HTMLResponse(env.get_template(name).render(values), status, HEADERS)

    def failed(message: str, status: int) -> Response:
        return page("failed.html", status, message=message)

    def home(request: Request) -> Response:
        q, which = request.query_params.get("q", "").strip(), request.query_params.get("users", "most")
        if which not in ("most", "fewest", "random"):
            return failed(f"users={which}: must be most, fewest or random", 400)
        if q:
            users, items = explorer.find_users(q), explorer.find_items(q)
            if len(users) == 1 and not items:
                return RedirectResponse(f"/user?{urlencode({'id': users[0]['user_id']})}", 303, HEADERS)
        else:
            users, items = explorer.some_users(which), []
        loaded = explorer.recommender.refresh()
        counts = {"users": len(explorer.users(loaded)), "all_items": len(loaded.items)}
        return page("home.html", q=q, which=which, users=users, items=items, counts=counts)

    def user(request: Request) -> Response:
        params = request.query_params
        try:
            edit = Edit(
                frozenset(params.getlist("without")), params.get("as_of", ""), params.get("category", ""),
                _number(params.get("k"), 10, "k"), {"1": True, "0": False}.get(params.get("hide_seen", "")),
            )  # fmt: skip
            count = _number(params.get("events"), NEWEST, "events")
            user_id = explorer.user_id(params.get("id", ""))
            found = explorer.user_page(user_id, edit)
        except ValueError as error:
            return failed(str(error), 400)
        if found is None:
            return failed(f"User {params.get('id', '')}: the state has no event of this user.", 404)
        newest = list(reversed(found.events))
        # Left-out events stay on the page, so that the form keeps them.
        listed = [event for place, event in enumerate(newest) if place < count or event.key in edit.without]
        state_end = end_of(explorer.recommender.refresh().manifest.date)
        days = [(name, _day(state_end, back)) for name, back in (("a week", 7), ("a month", 30))]
        largest = max((of.inner + of.own + of.popularity for of in found.shown), default=1.0)
        return page(
            "user.html", user=found, edit=edit, listed=listed, count=count, earlier=days,
            line=time_line(found.events), categories=explorer.categories(), largest=max(largest, 1e-9),
        )  # fmt: skip

    def item(request: Request) -> Response:
        text = request.query_params.get("id", "")
        try:
            found = explorer.item_page(text)
        except ValueError as error:
            return failed(str(error), 400)
        if found is None:
            return failed(f"Item {text}: the state has no vector of this item.", 404)
        total = len(explorer.recommender.refresh().items)
        return page("item.html", found=found, total=total)

    def badly_served(request: Request) -> Response:
        params = request.query_params
        try:
            values = {
                name: _number(params.get(name), default, name)
                for name, default in (("days", 7), ("k", 10), ("sample", 200))
            }
            seed = _number(params.get("seed"), 1, "seed", 10**6)
        except ValueError as error:
            return failed(str(error), 400)
        loaded = explorer.recommender.refresh()
        day = _day(days_before(loaded, values["days"]), 0)
        result = explorer.badly_served(values["days"], values["k"], values["sample"], seed)
        return page("badly_served.html", result=result, day=day, seed=seed, **values)

    def style(request: Request) -> Response:
        return FileResponse(PAGES / "explorer.css", headers={"X-Content-Type-Options": "nosniff"})

    def not_found(request: Request, error: Exception) -> Response:
        return PlainTextResponse("no such page", 404)

    routes = [
        Route("/", home), Route("/user", user), Route("/item", item),
        Route("/badly-served", badly_served), Route("/explorer.css", style),
    ]  # fmt: skip
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={404: not_found})


def time_line(events: Sequence[Event], width: float = 1100, height: float = 100) -> TimeLine:
    """Bars of so many days each, one part an action; oldest first."""
    if not events:
        return TimeLine([], [], [], 1, 0)
    actions = Counter(event.action for event in events)
    colour = {action: min(n, COLOURS - 1) for n, (action, _) in enumerate(actions.most_common())}
    first, last = events[0].time.date(), events[-1].time.date()
    days = -(-((last - first).days + 1) // BINS)
    bins = ((last - first).days) // days + 1
    counts: Counter[tuple[int, int, str, bool]] = Counter()
    for event in events:
        place = (event.time.date() - first).days // days
        counts[place, colour[event.action], event.action, event.kept] += 1
    totals: Counter[int] = Counter()
    for (place, *_), count in counts.items():
        totals[place] += count
    most, step = max(totals.values()), width / max(bins, 14)
    level: Counter[int] = Counter()
    bars = []
    for (place, number, action, kept), count in sorted(counts.items(), key=lambda of: of[0]):
        begin = first + datetime.timedelta(place * days)
        until = begin + datetime.timedelta(days - 1)
        when = f"{begin}" if days == 1 else f"{begin} to {until}"
        tip = f"{when}: {count} {action or 'event'}" + ("" if kept else ", left out")
        tall = count / most * height
        level[place] += count
        bars.append(
            Bar(
                place * step,
                height - level[place] / most * height,
                max(step - 1.5, 0.8),
                tall,
                number,
                kept,
                tip,
            )
        )
    marks = 5 if bins > 20 else 2
    places = sorted({round(n * (bins - 1) / (marks - 1)) for n in range(marks)})
    ticks = [(place * step, str(first + datetime.timedelta(place * days))) for place in places[:-1]]
    ticks.append((places[-1] * step, str(last)))
    legend = [(action or "event", colour[action], count) for action, count in actions.most_common()]
    return TimeLine(bars, legend, ticks, days, most)


def _day(end: int, back: int) -> str:
    """ISO day, so many days before the last one that ends at a moment."""
    return (
        datetime.datetime.fromtimestamp(end, datetime.UTC).date() - datetime.timedelta(back + 1)
    ).isoformat()


def _number(text: str | None, default: int, name: str, most: int | None = None) -> int:
    """A number of an address.

    Raises:
        ValueError: it is none, or out of bounds.
    """
    most = MOST[name] if most is None else most
    try:
        value = int(text) if text else default
    except ValueError:
        value = 0
    if not 1 <= value <= most:
        raise ValueError(f"{name}={text}: must be a whole number from 1 to {most:,}")
    return value


def _query(values: dict[str, Any]) -> str:
    """The part of an address behind the question mark; empty values are left out."""
    return urlencode([(name, value) for name, value in values.items() if value not in ("", None, False)])
