"""Least privilege on NATS: what each service may publish and subscribe to, derived from its table."""

from collections.abc import Sequence
from typing import Any

from libs.contracts import stream_of
from libs.messaging.bus import Durable

_OWN_STREAM = ("CREATE", "UPDATE", "INFO", "DELETE", "MSG.GET")


def permissions_of(service: str, durables: Sequence[Durable], hears: Sequence[str]) -> dict[str, Any]:
    """Write the permissions of a service's NATS user, as nats-server's configuration wants them.

    It may state its own facts, manage its own stream, make and consume its own durables, and hear its own facts
    pass by; nothing else. Known hole: servers do not check reply subjects, so a hostile service could have an
    answer stored on a foreign stream; consumers therefore check subject and schema of what they get.

    A second one: whoever may update a stream may give it `sources` or `republish`, and so read or forge what is
    another's. It is closed by letting an operator's user make the streams instead.
    """
    own = stream_of(service)
    publish = [f"{service}.>", *(f"$JS.API.STREAM.{verb}.{own}" for verb in _OWN_STREAM)]
    publish.append(f"$JS.API.CONSUMER.INFO.{own}.*")  # how far those are whose answers it awaits
    for durable in durables:
        at = f"{durable.stream}.{durable.name}"
        publish += [f"$JS.API.CONSUMER.{verb}.{at}" for verb in ("CREATE", "INFO", "MSG.NEXT", "DELETE")]
        publish.append(f"$JS.API.STREAM.INFO.{durable.stream}")  # which incarnation it is, and whether it is there
        publish += [f"$JS.ACK.{at}.>", f"$JS.ACK.*.*.{at}.>"]
    return {"publish": {"allow": publish}, "subscribe": {"allow": [f"_INBOX_{service}.>", *hears]}}


def observer_permissions(services: Sequence[str]) -> dict[str, Any]:
    """Write the permissions of the observer: sees every fact and every stream's state, changes nothing."""
    reads = ["INFO", "STREAM.INFO.*", "STREAM.NAMES", "STREAM.LIST", "STREAM.MSG.GET.*", "DIRECT.GET.>"]
    reads += ["CONSUMER.INFO.*.*", "CONSUMER.NAMES.*", "CONSUMER.LIST.*"]
    return {
        "publish": {"allow": [f"$JS.API.{subject}" for subject in reads]},
        "subscribe": {"allow": [">"], "deny": [f"_INBOX_{service}.>" for service in services]},
    }
