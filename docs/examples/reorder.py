#!/usr/bin/env python3
"""A shop that orders anew what runs out: a service outside this repository's, on `libs.messaging` alone. To try it:

.venv/bin/nats-server -js >nats.log 2>&1 & .venv/bin/python docs/examples/reorder.py
"""

import asyncio
from uuid import UUID, uuid4

from sqlalchemy import Column, MetaData, Table, Uuid

from libs.messaging import Event, Fact, Listens, Origin, Unit, insert_new, taking_part

reorders = Table("reorders", MetaData(), Column("item_id", Uuid, primary_key=True))


class ItemSold(Fact):
    type, keyed_by = "shop.item.sold", ("item_id",)
    item_id: UUID
    left: int = 0


class ItemReordered(ItemSold):
    type = "shop.item.reordered"


async def on_items_sold(events: list[Event[ItemSold]], unit: Unit) -> None:
    out = {event.fact.item_id: event for event in events if not event.fact.left}
    for item_id in await insert_new(unit.connection, reorders, [{"item_id": one} for one in out], key="item_id"):
        unit.publish(ItemReordered(item_id=item_id), cause=out[item_id])  # true with the row, or not at all


async def main() -> None:
    async with taking_part("shop", tables=reorders.metadata, listens=[Listens(ItemSold, on_items_sold)]) as units:
        async with units.begin() as unit:
            unit.publish(ItemSold(item_id=uuid4()), cause=Origin())
        await asyncio.Event().wait()


asyncio.run(main())
