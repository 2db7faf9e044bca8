"""Names that public data sets and shop systems give to the columns of a log, and to actions.

Names are compared by `log_profile.key`: small letters and digits alone. The more telling come first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pinnerformer_jax.ingestion.log_profile import Facts

USER = (
    "userid", "user", "customerid", "customer", "memberid", "member", "visitorid", "userpseudoid",
    "fullvisitorid", "clientid", "accountid", "buyerid", "shopperid", "reviewerid", "profileid", "uid",
    "personid", "householdkey", "householdid", "subscriberid", "custid", "customeremail", "useremail",
    "email",
)  # fmt: skip
WEAK_USER = ("deviceid", "anonymousid", "cookieid", "sessionid", "session", "usersession", "reviewername")
"""These name a person only in part of the cases."""

ITEM = (
    "itemid", "item", "productid", "sku", "lineitemsku", "productsku", "itemsku", "stockcode", "product",
    "articleid", "article", "movieid", "videoid", "parentasin", "asin", "trackid", "traid", "songid",
    "musicid", "bookid", "isbn", "venueid", "poiid", "businessid", "locationid", "listingid", "hotelid",
    "gameid", "appid", "newsid", "postid", "recipeid", "courseid", "adid", "contentid", "pinid", "goodsid",
    "offerid", "photoid", "artistid", "artid",
)  # fmt: skip
WEAK_ITEM = (
    "lineitemname",
    "itemname",
    "productname",
    "description",
    "track",
    "song",
    "artist",
    "venue",
    "title",
)

TIME = (
    "timestamp", "timems", "eventtime", "eventtimestamp", "datetime", "ts", "time", "timestampms",
    "createdat", "tdat", "orderdate", "invoicedate", "orderedat", "unixreviewtime", "reviewtime",
    "visittime", "utctime", "eventdate", "purchasedate", "transactiondate", "purchasedat", "playedat",
    "watchedat", "orderpurchasetimestamp", "invoicetime", "transactiontime", "clicktime", "unixtime",
    "eventts", "ratedat", "boughtat", "viewedat", "soldat", "transactiontimestamp", "reviewdate",
    "orderdatetime", "checkintime", "date", "day",
)  # fmt: skip
LATER_TIME = re.compile(
    "updat|upload|birth|expir|deliver|cancel|fulfill|ship|modif|releas|publish|register|signup|first|previous|paid"
    "|estimat|approv|refund|stay|play|watch|dwell|spent|duration|since|zone|offset|hour|dow"
)
"""Parts of names of times that are not those of the event."""

ACTION = (
    "action", "actiontype", "eventtype", "event", "eventname", "behaviortype", "behaviourtype", "behavior",
    "behaviour", "interaction", "interactiontype", "activity", "activitytype", "feedbacktype", "actionname",
    "reaction", "type",
)  # fmt: skip
SURFACE = ("surface", "tab", "page", "pagetype", "placement", "screen", "saleschannelid", "channel", "slot")
DURATION = (
    "playtimems", "playtime", "dwelltimems", "dwelltime", "dwell", "watchtimems", "watchtime",
    "watchduration", "listentime", "listeningtime", "msplayed", "secondsplayed", "timespent", "timespentms",
    "engagementtimemsec", "viewtime", "viewduration", "durations", "durationsec", "durationseconds",
    "durationms", "duration",
)  # fmt: skip
RATING = (
    "rating",
    "ratings",
    "stars",
    "starrating",
    "reviewrating",
    "userrating",
    "bookrating",
    "overall",
    "score",
)
QUANTITY = ("quantity", "qty", "units", "lineitemquantity", "itemquantity", "unitssold", "orderquantity")
PRICE = ("price", "unitprice", "lineitemprice", "amount", "revenue", "totalprice", "saleprice", "salesvalue")
ORDER = ("invoice", "invoiceno", "invoiceid", "orderid", "order", "orderno", "transactionid", "receiptid")
STATUS = ("orderstatus", "financialstatus", "paymentstatus", "status")

TITLE = (
    "title", "itemtitle", "producttitle", "movietitle", "itemname", "productname", "prodname",
    "lineitemname", "displayname", "trackname", "traname", "songname", "videotitle", "caption", "headline",
    "name", "description", "productdescription", "itemdescription", "subcommoditydesc", "producttype",
)  # fmt: skip
TOPIC = (
    "topic", "categorycode", "category", "categoryname", "productcategory", "commoditydesc", "maincategory",
    "genre", "genres", "department",
    "departmentname", "producttypename", "producttype", "productgroupname", "itemcategory", "subcategory",
    "aisle", "tag", "class", "venuecategory", "categoryid",
)  # fmt: skip
VECTOR = ("vector", "embedding", "embeddings", "features", "itemvector", "itemembedding", "emb")

_AGAINST = re.compile(
    r"remove|unlike|dislike|hate|hide|return|refund|cancel|unsub|unfollow|unfav|skip|report|block|notinterested|delete"
)
_INTENT = re.compile(
    r"purchase|buy|bought|transaction|order|checkout|paid|cart|basket|wish|like|love|fav|save|share|repin|follow"
    r"|comment|subscri|bookmark|collect|forward|repost|retweet|download|install|apply|booking|longview|longwatch"
    r"|finish|complet|conversion|rent|donat|repeat|upvote|positive|addto"
)
_LOOK = re.compile(r"^(view|page|select|scroll|search|session|profileenter|firstvisit)")
_WEAK = re.compile(
    r"view|click|play|listen|watch|open|visit|impression|show|detail|read|hover|enter|pv|expos|event"
)


def strength(action: str) -> str:
    """What the name of an action says of it: "intent" (buys, saves, likes ...), "look" (views, clicks,
    plays ...), "against" (returns, hides, removes ...) or "" (unknown)."""
    name = re.sub(r"[\W_]+", "", action).lower()
    for kind, pattern in (("against", _AGAINST), ("look", _LOOK), ("intent", _INTENT), ("look", _WEAK)):
        if pattern.search(name):
            return kind
    return ""


def named(columns: Sequence[Facts], names: Sequence[str]) -> list[Facts]:
    """The columns that have one of these names, by the order of the names."""
    return sorted(
        (c for c in columns if c.key in names), key=lambda c: (names.index(c.key), c.name.lower() != c.name)
    )


def titles(columns: Sequence[Facts]) -> list[Facts]:
    """The columns that are called like a title; then those that are called like an item, such as 'product',
    and hold texts of several words."""
    return named(columns, TITLE) + [column for column in named(columns, ITEM) if column.words]
