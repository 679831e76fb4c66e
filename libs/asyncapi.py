"""AsyncAPI 3.1, made from the tables of services and the models of their messages."""

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, TypeAlias
from uuid import UUID

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, NoDefault, models_json_schema

from libs.contracts import Fact, publisher_of, stream_of
from libs.contracts.dead_letters import DeadLetter
from libs.messaging.consumer import Listens, durables
from libs.messaging.durable import ACK_WAIT_S, MAX_ACK_PENDING
from libs.messaging.jetstream import MAX_AGE_S
from libs.service import Service

Json: TypeAlias = dict[str, Any]

REFERENCE: Final = "#/components/schemas/"
MOMENT: Final = "2026-11-22T09:30:00.123456Z"
TRACEPARENT: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

SERVER: Final = {
    "host": "127.0.0.1:4222",
    "protocol": "nats",
    "description": "Where `just run` has it. A service reads NATS_URL; JetStream is on, from NATS 2.12 on.",
    "security": [{"$ref": "#/components/securitySchemes/user"}],
}
USER: Final = {"type": "userPassword", "description": "Each service has a user of its own, with its own rights."}

HEADERS: Final = {
    "type": "object",
    "description": "CloudEvents 1.0 in binary mode: the attributes are NATS headers.",
    "properties": {
        "ce-specversion": {"const": "1.0"},
        "ce-id": {"type": "string", "description": "The event's id, a UUID; the same however often it is delivered."},
        "ce-type": {"type": "string", "description": "What happened."},
        "ce-source": {"type": "string", "description": "The service that states it."},
        "ce-time": {"type": "string", "format": "date-time", "description": "When it was stated."},
        "content-type": {"const": "application/json"},
        "Nats-Msg-Id": {"type": "string", "description": "The same as `ce-id`: what the stream deduplicates by."},
        "traceparent": {
            "type": "string",
            "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
            "description": "W3C Trace Context: which request caused this.",
        },
        "Nats-Batch-Id": {"type": "string", "description": "Only on messages that were stored together."},
        "Nats-Batch-Sequence": {"type": "string", "pattern": "^[0-9]+$"},
        "Nats-Batch-Commit": {"const": "1", "description": "Only on the last of a batch."},
    },
    "required": [
        *("ce-specversion", "ce-id", "ce-type", "ce-source", "ce-time"),
        *("content-type", "Nats-Msg-Id", "traceparent"),
    ],
}
"""What every message carries."""

RESTATED: Final = {
    "const": "1",
    "description": "There when the answer is missed: this question was asked before, and wants its answer again.",
}


@dataclass(frozen=True, slots=True)
class Spoken:
    """A kind of message: a fact, or the announcement of dead letters."""

    name: str
    model: type[BaseModel]
    kind: str
    """Its `ce-type`; what that begins with, for dead letters."""
    address: str
    parameters: Json
    keys: tuple[str, ...] = ()
    restated: bool = False
    example: Json | None = None

    @property
    def channel(self) -> str:
        """The id of its channel."""
        return _channel_id(self.name)

    @property
    def source(self) -> str:
        """Its `ce-source`."""
        return "/" + self.kind.split(".", 1)[0]


def describe(service: Service[Any, Any], services: Sequence[Service[Any, Any]], *, info: Json) -> Json:
    """Describe what `service` states and listens to. Who awaits whose answer is read from the tables of `services`."""
    tables = _Tables(services)
    states = [*(tables.spoken(fact) for fact in service.publishes), *_dead_letters(service)]
    hears = [tables.spoken(line.fact) for line in service.listens]
    replies = {
        fact.__name__: tables.reply(fact) for fact in (*service.publishes, *(one.fact for one in service.listens))
    }
    answering = [tables.spoken(fact) for answers in replies.values() for fact in answers]
    messages = list({one.name: one for one in (*states, *hears, *answering)}.values())
    channels = {one.channel: _channel([one], one.address, one.parameters, _about(one.model)) for one in messages}
    for question, answers in replies.items():
        if len(answers) > 1:
            channels[_answer_to(question, answers)] = _shared_channel(question, [tables.spoken(one) for one in answers])
    operations = {f"publish_{_snake(one.name)}": _publishes(one, service, replies.get(one.name, ())) for one in states}
    for line in service.listens:
        operations[line.handler.__name__] = _listens(line, service, replies[line.fact.__name__])
    schemas, references = _schemas([one.model for one in messages])
    return {
        "asyncapi": "3.1.0",
        "info": info,
        "defaultContentType": "application/json",
        "servers": {"nats": SERVER},
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {one.name: _message(one, references[one.model], schemas) for one in messages},
            "schemas": {"Headers": HEADERS, **schemas},
            "securitySchemes": {"user": USER},
        },
    }


class _Tables:
    """What all services state, listen to and answer."""

    def __init__(self, services: Sequence[Service[Any, Any]]) -> None:
        self._lines = [(service, line) for service in services for line in service.listens]

    def reply(self, fact: type[Fact]) -> tuple[type[Fact], ...]:
        """The facts that answer `fact` and that its publisher listens to: those it awaits."""
        publisher = publisher_of(fact)
        awaited = {line.fact for service, line in self._lines if service.name == publisher}
        answers = (answer for _, line in self._lines if line.fact is fact for answer in line.answers)
        return tuple(dict.fromkeys(answer for answer in answers if answer in awaited))

    def spoken(self, fact: type[Fact]) -> Spoken:
        key = "_or_".join(fact.keyed_by)
        return Spoken(
            fact.__name__,
            fact,
            fact.type,
            f"{fact.type}.{{{key}}}",
            {key: _key_parameter(fact)},
            fact.keyed_by,
            restated=bool(self.reply(fact)),
        )


def _key_parameter(fact: type[Fact]) -> Json:
    parameter: Json = {"description": f"What it is about: the {_words(fact)} as a UUID."}
    if len(fact.keyed_by) == 1:
        parameter["location"] = f"$message.payload#/{fact.keyed_by[0]}"
    return parameter


def _words(fact: type[Fact]) -> str:
    names = [f"`{name}`" for name in fact.keyed_by]
    return names[0] if len(names) == 1 else f"{names[0]} where there is one, else the {names[1]},"


def _dead_letters(service: Service[Any, Any]) -> Iterable[Spoken]:
    """What `service` announces when it sets a message aside; nothing when it listens to none."""
    entities = list(dict.fromkeys(line.fact.type.split(".")[1] for line in service.listens))
    if entities:
        yield Spoken(
            "DeadLetter",
            DeadLetter,
            f"{service.name}.dead",
            f"{service.name}.dead.{{entity}}.{{id}}",
            {
                "entity": {"examples": entities, "description": "What kind of thing the message was about."},
                "id": {"description": "The end of the subject of the message."},
            },
            example=_set_aside(service.listens[0].fact),
        )


def _set_aside(fact: type[Fact]) -> Json:
    """Announce one that cannot be read."""
    letter = DeadLetter(
        event_id=example_id(fact.__name__),
        subject=f"{fact.type}.{example_id(fact.keyed_by[0])}",
        error=f"Refusal: unreadable_message: not a {fact.type}: {fact.keyed_by[0]}: Field required",
    )
    return letter.model_dump()


def _channel(messages: Sequence[Spoken], address: str, parameters: Json, description: str) -> Json:
    return {
        "address": address,
        "description": description,
        "servers": [{"$ref": "#/servers/nats"}],
        "parameters": parameters,
        "messages": {one.name: {"$ref": f"#/components/messages/{one.name}"} for one in messages},
    }


def _channel_id(name: str) -> str:
    return name[0].lower() + name[1:]


def _answer_to(question: str, answers: Sequence[type[Fact]]) -> str:
    """Name the channel on which the answer comes: its own, or where there is a choice, one that stands for all."""
    return _channel_id(answers[0].__name__) if len(answers) == 1 else f"answerTo{question}"


def _shared_channel(question: str, answers: Sequence[Spoken]) -> Json:
    """Describe where several answers of one entity come: the address leaves open which of them it is."""
    entities = {one.kind.rpartition(".")[0] for one in answers}
    keys = {key for one in answers for key in one.parameters}
    if len(entities) > 1 or len(keys) > 1:
        raise ValueError(f"the answers to {question} come on unlike subjects: {[one.address for one in answers]}")
    outcome = {"enum": [one.kind.rpartition(".")[2] for one in answers], "description": "Which answer it is."}
    return _channel(
        answers,
        f"{entities.pop()}.{{outcome}}.{{{keys.pop()}}}",
        {"outcome": outcome, **answers[0].parameters},
        f"The answer to `{question}`: one of these.",
    )


def _publishes(one: Spoken, service: Service[Any, Any], answers: Sequence[type[Fact]]) -> Json:
    stream = {
        "stream": stream_of(service.name),
        "subjects": [f"{service.name}.>"],
        "storage": "file",
        "retention": "limits",
        "max_age_s": MAX_AGE_S,
        "discard": "new",
    }
    operation = {
        "action": "send",
        "channel": {"$ref": f"#/channels/{one.channel}"},
        "title": one.name,
        "summary": _summary(one.model),
        "messages": _messages_of(one.channel, [one.name]),
        "bindings": _binding(stream),
    }
    return operation | _reply(one.name, answers)


def _listens(line: Listens[Any], service: Service[Any, Any], answers: Sequence[type[Fact]]) -> Json:
    name = line.fact.__name__
    channel = _channel_id(name)
    [durable] = [one for one in durables(service.name, service.listens) if f"{line.fact.type}.*" in one.subjects]
    consumer = {
        "stream": durable.stream,
        "durable_name": durable.name,
        "filter_subjects": list(durable.subjects),
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait_s": int(ACK_WAIT_S),
        "max_deliver": -1,
        "max_ack_pending": MAX_ACK_PENDING,
    }
    operation: Json = {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{channel}"},
        "title": name,
        "summary": inspect.getdoc(line.handler),
        "messages": _messages_of(channel, [name]),
        "bindings": _binding(consumer),
    }
    if line.answers:
        operation["x-states"] = [fact.__name__ for fact in line.answers]
    return operation | (_reply(name, answers) if set(answers) <= set(line.answers) else {})


def _reply(question: str, answers: Sequence[type[Fact]]) -> Json:
    if not answers:
        return {}
    channel = _answer_to(question, answers)
    names = [fact.__name__ for fact in answers]
    return {"reply": {"channel": {"$ref": f"#/channels/{channel}"}, "messages": _messages_of(channel, names)}}


def _messages_of(channel: str, names: Iterable[str]) -> list[Json]:
    return [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names]


def _binding(facts: Json) -> Json:
    """Write what JetStream keeps. The NATS binding knows core NATS only, so it goes into an extension."""
    return {"nats": {"x-jetstream": facts, "bindingVersion": "0.1.0"}}


def _message(one: Spoken, payload: Json, schemas: Json) -> Json:
    message: Json = {
        "name": one.kind,
        "title": one.name,
        "summary": _summary(one.model),
        **({"description": about} if (about := _about(one.model)) != _summary(one.model) else {}),
        "contentType": "application/json",
        "headers": _headers(one),
        "payload": payload,
        "examples": [{"name": one.name, **_example(one, schemas[one.model.__name__], schemas)}],
    }
    if one.keys:
        key, *others = (f"`{name}`" for name in one.keys)
        otherwise = f" (where there is none, the same {others[0]})" if others else ""
        message["correlationId"] = {
            "description": f"Messages with the same {key}{otherwise} belong together.",
            "location": f"$message.payload#/{one.keys[0]}",
        }
    return message


def _headers(one: Spoken) -> Json:
    """Narrow the headers to what this message carries."""
    kind = {"const": one.kind} if one.keys else {"pattern": rf"^{re.escape(one.kind)}\.[a-z]+$"}
    own = {"ce-type": kind, "ce-source": {"const": one.source}}
    if one.restated:
        own["restated"] = RESTATED
    return {"type": "object", "allOf": [{"$ref": f"{REFERENCE}Headers"}, {"properties": own}]}


def _example(one: Spoken, schema: Json, schemas: Json) -> Json:
    event_id = example_id(one.name)
    headers = {
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-type": one.kind if one.keys else f"{one.kind}.{next(iter(one.parameters['entity']['examples']))}",
        "ce-source": one.source,
        "ce-time": MOMENT,
        "content-type": "application/json",
        "Nats-Msg-Id": event_id,
        "traceparent": TRACEPARENT,
    }
    payload = one.example or {name: _value(name, field, schemas) for name, field in schema["properties"].items()}
    return {"headers": headers, "payload": payload}


def _value(name: str, schema: Json, schemas: Json) -> Any:
    """Make an example of a field, the same one every time."""
    if "$ref" in schema:
        return _value(name, schemas[schema["$ref"].removeprefix(REFERENCE)], schemas)
    if "examples" in schema:
        return schema["examples"][0]
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("format") == "uuid":
        return example_id(name)
    if schema.get("type") == "integer":
        return 1
    raise ValueError(f"{name} needs an example: Field(examples=[…])")


def example_id(name: str) -> str:
    """Make the id that `name` has in every example: one UUIDv7, so that messages of one order show the same."""
    random = int.from_bytes(sha256(name.encode()).digest()[:16])
    return str(UUID(int=0x019ABCDEF0127 << 76 | 0b10 << 62 | random >> 66 | (random & 0xFFF) << 64))


class _Generate(GenerateJsonSchema):
    """Schemas as facts have them on the wire: a field without a value is absent, any other is there."""

    def sort(self, value: Any, parent_key: str | None = None) -> Any:  # noqa: ARG002 - pydantic's signature
        return value  # as the models have it

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False

    def field_is_required(self, field: Any, total: bool) -> bool:  # noqa: ARG002 - pydantic's signature
        schema = field["schema"]
        return not (schema["type"] == "default" and schema["schema"]["type"] == "nullable")

    def nullable_schema(self, schema: Any) -> Json:
        return self.generate_inner(schema["schema"])

    def get_default_value(self, schema: Any) -> Any:  # noqa: ARG002 - pydantic's signature
        return NoDefault


def _schemas(models: Sequence[type[BaseModel]]) -> tuple[Json, dict[type[BaseModel], Json]]:
    """Return the schemas of the models by name, and what refers to each model's."""
    references, found = models_json_schema(
        [(model, "serialization") for model in models],
        ref_template=REFERENCE + "{model}",
        schema_generator=_Generate,
    )
    return found["$defs"], {model: references[model, "serialization"] for model in models}


def _about(model: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(model) or "").split())


def _summary(model: type[BaseModel]) -> str:
    first, _, _ = _about(model).partition(". ")
    return first.removesuffix(".") + "."


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
