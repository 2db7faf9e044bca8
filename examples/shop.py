"""A made-up shop: orders of 18 months as a CSV file, a table of products, and a list of what is sold out.

    python examples/shop.py --out data/shop [--customers 8000] [--products 2000] [--seed 0]

Customers have favourite categories and a level of price. They buy again what is used up (coffee, shampoo),
follow the seasons (grills in summer, candles in winter), and try new products. The files have what exports of
shop systems have: dates as dd/mm/yyyy, orders of guests without a customer, and cancelled lines with a
negative quantity. docs/tutorial.md goes on from here. The same seed and sizes give the same files.
"""

import argparse
import csv
import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

START = datetime.datetime(2025, 1, 1)
DAYS = 546
# Name: what its products are, days until one is used up (0: it lasts), month of the season (0: none).
CATEGORIES = {
    "Coffee": (("House Blend", "Espresso", "Filter Roast", "Decaf"), 30, 0),
    "Tea": (("Green Tea", "Earl Grey", "Rooibos", "Mint Tea"), 45, 0),
    "Biscuits": (("Oat Biscuits", "Shortbread", "Ginger Nuts", "Wafers"), 21, 0),
    "Pasta": (("Spaghetti", "Penne", "Fusilli", "Lasagne"), 28, 0),
    "Dog Food": (("Dry Food Beef", "Dry Food Chicken", "Puppy Food", "Dog Treats"), 28, 0),
    "Cat Food": (("Cat Food Tuna", "Cat Food Lamb", "Kitten Food", "Cat Treats"), 24, 0),
    "Cleaning": (("Dish Soap", "Floor Cleaner", "Glass Cleaner", "Descaler"), 40, 0),
    "Laundry": (("Washing Powder", "Liquid Detergent", "Softener", "Stain Remover"), 45, 0),
    "Hair": (("Shampoo", "Conditioner", "Hair Oil", "Hair Mask"), 40, 0),
    "Skin": (("Day Cream", "Night Cream", "Hand Cream", "Sun Milk"), 55, 7),
    "Vitamins": (("Vitamin C", "Vitamin D", "Zinc", "Magnesium"), 30, 1),
    "Baking": (("Flour", "Baking Powder", "Vanilla Sugar", "Chocolate Drops"), 50, 12),
    "Yarn": (("Merino Yarn", "Cotton Yarn", "Sock Yarn", "Mohair Yarn"), 35, 10),
    "Candles": (("Pillar Candle", "Tea Lights", "Scented Candle", "Lantern"), 0, 12),
    "Toys": (("Puzzle", "Wooden Train", "Board Game", "Plush Bear"), 0, 12),
    "Seeds": (("Tomato Seeds", "Herb Seeds", "Wildflowers", "Salad Seeds"), 0, 3),
    "Garden Tools": (("Trowel", "Secateurs", "Watering Can", "Rake"), 0, 4),
    "Grill": (("Charcoal", "Grill Tongs", "Grill Pan", "Marinade"), 0, 6),
    "Paint": (("Wall Paint", "Varnish", "Brush Set", "Roller"), 0, 5),
    "Lamps": (("Desk Lamp", "Floor Lamp", "Night Light", "Bulb"), 0, 11),
    "Pans": (("Frying Pan", "Saucepan", "Wok", "Casserole"), 0, 0),
    "Bedding": (("Duvet Cover", "Pillow Case", "Fitted Sheet", "Blanket"), 0, 11),
    "Notebooks": (("Notebook A5", "Sketch Book", "Planner", "Pencil Set"), 0, 9),
    "Books": (("Cook Book", "Garden Guide", "Crime Novel", "Travel Guide"), 0, 0),
}
AFTER = {"Pans": "Books", "Seeds": "Garden Tools", "Grill": "Pans", "Yarn": "Books", "Baking": "Pans"}
"""What a purchase makes likely in the next six weeks."""
BRANDS = ("Alder", "Birk", "Corso", "Dorne", "Elva", "Fjell", "Gran", "Hollin", "Ilex", "Juno")


class Products(NamedTuple):
    """All products, by number."""

    sku: list[str]
    name: list[str]
    category: np.ndarray  # int
    price: np.ndarray
    fame: np.ndarray  # how well it sells
    launched: np.ndarray  # day; negative: before the first
    withdrawn: np.ndarray  # day


def make_products(count: int, rng: np.random.Generator) -> Products:
    """Draw the products; a quarter is launched along the way, a tenth is withdrawn."""
    names = list(CATEGORIES)
    category = np.sort(rng.integers(len(names), size=count))
    launched = np.where(rng.random(count) < 0.75, -1, rng.integers(0, DAYS, count))
    lasts = rng.random(count) < 0.9
    titles = []
    for number, of in enumerate(category):
        kind = CATEGORIES[names[of]][0]
        titles.append(f"{BRANDS[rng.integers(len(BRANDS))]} {kind[rng.integers(len(kind))]} No. {number}")
    return Products(
        sku=[f"{names[of][:3].upper()}{number:05d}" for number, of in enumerate(category)],
        name=titles,
        category=category,
        price=np.round(np.exp(rng.normal(2.3, 0.7, count)), 2),
        fame=rng.pareto(1.3, count) + 0.1,
        launched=launched,
        withdrawn=np.where(lasts, DAYS, np.maximum(launched, 0) + rng.integers(60, DAYS, count)),
    )


def orders_of(products: Products, rng: np.random.Generator) -> list[tuple[float, list[int]]]:
    """The orders of one customer: day, and products."""
    names, kinds = list(CATEGORIES), list(CATEGORIES.values())
    month = np.array([kind[2] for kind in kinds])
    rate = np.exp(rng.normal(-4.0, 0.8))  # orders a day
    taste = rng.dirichlet(np.full(len(kinds), 0.15))
    fit = products.fame * np.exp(-((np.log(products.price) - rng.normal(2.3, 0.5)) ** 2))
    first = np.searchsorted(products.category, np.arange(len(kinds) + 1))
    used_up: dict[int, float] = {}  # day on which a product has to be bought again
    interest = np.zeros(len(kinds))  # day until which a category is likely
    orders, day = [], float(rng.exponential(120) if rng.random() < 0.7 else rng.uniform(0, DAYS))
    while (day := day + rng.exponential(1 / rate) + 0.5) < DAYS:
        now = (START + datetime.timedelta(days=day)).month
        distance = np.minimum((month - now) % 12, (now - month) % 12)
        season = np.where(month == 0, 1.0, np.where(distance <= 1, 3.0, 0.4))
        on_sale = (products.launched <= day) & (products.withdrawn > day)
        is_new = (products.launched >= 0) & (day - products.launched < 45)
        weight = fit * on_sale * np.where(is_new, 4.0, 1.0)
        basket: list[int] = []
        for _ in range(1 + rng.poisson(1.4)):
            due = [k for k, end in used_up.items() if end < day and on_sale[k] and k not in basket]
            if due and rng.random() < 0.7:
                product = due[rng.integers(len(due))]
            else:
                likely = taste * season * np.where(interest > day, 6.0, 1.0)
                of = _draw(likely, rng)
                product = first[of] + _draw(weight[first[of] : first[of + 1]], rng)
            if product not in basket:
                basket.append(product)
        for product in basket:
            of = products.category[product]
            if kinds[of][1]:
                used_up[product] = day + kinds[of][1] * rng.lognormal(0, 0.3)
            if names[of] in AFTER:
                interest[names.index(AFTER[names[of]])] = day + 42
        if basket:
            orders.append((day, basket))
    return orders


def _draw(weight: np.ndarray, rng: np.random.Generator) -> int:
    """A place, as likely as its weight."""
    total = np.cumsum(weight)
    return int(np.searchsorted(total, rng.random() * total[-1], side="right").clip(max=len(weight) - 1))


def write(folder: Path, customers: int, count: int, seed: int) -> dict[str, int]:
    """Write orders.csv, products.csv and sold-out.txt; how many lines each has."""
    rng = np.random.default_rng(seed)
    products = make_products(count, rng)
    orders = []  # day, customer, products, quantities, cancelled
    for number in range(customers):
        for day, basket in orders_of(products, np.random.default_rng([seed, number])):
            customer = "" if rng.random() < 0.06 else f"{10_001 + number}"
            quantities = 1 + rng.poisson(0.5, len(basket))
            orders.append((day, customer, basket, quantities, False))
            if rng.random() < 0.02 and day + 3 < DAYS:
                orders.append((day + rng.uniform(0.1, 3), customer, basket, -quantities, True))
    orders.sort(key=lambda order: order[:2])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "orders.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(("invoice", "customer_id", "order_date", "sku", "product", "quantity", "unit_price"))
        for number, (day, customer, basket, quantities, cancelled) in enumerate(orders):
            time = (START + datetime.timedelta(days=day)).strftime("%d/%m/%Y %H:%M")
            invoice = f"{'C' if cancelled else ''}{500_000 + number}"
            for product, quantity in zip(basket, quantities.tolist(), strict=True):
                name, price = products.name[product], f"{products.price[product]:.2f}"
                out.writerow((invoice, customer, time, products.sku[product], name, quantity, price))
    known = np.flatnonzero(products.launched < DAYS)
    sold_out = rng.choice(known, round(0.07 * len(known)), replace=False)
    stock = rng.integers(3, 200, count)
    stock[sold_out] = 0
    with (folder / "products.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(("sku", "name", "category", "price", "stock"))
        names = list(CATEGORIES)
        for k, sku in enumerate(products.sku):
            out.writerow((sku, products.name[k], names[products.category[k]], products.price[k], stock[k]))
    (folder / "sold-out.txt").write_text("".join(f"{products.sku[k]}\n" for k in np.sort(sold_out)))
    lines = sum(len(order[2]) for order in orders)
    return {"orders.csv": lines, "products.csv": count, "sold-out.txt": len(sold_out)}


def main() -> None:
    """Write the files that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the three files")
    parser.add_argument("--customers", type=int, default=8_000, help="%(default)s")
    parser.add_argument("--products", type=int, default=2_000, help="%(default)s")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    values = parser.parse_args()
    for name, lines in write(values.out, values.customers, values.products, values.seed).items():
        print(f"{values.out / name}: {lines:,} lines")


if __name__ == "__main__":
    main()
