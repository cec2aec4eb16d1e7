"""The routes as an OpenAPI document (version 3.1), for whoever makes clients from such."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from walmill.http.operations import JSON, MEANINGS, OPERATIONS, Operation
from walmill.http.resource import json_response, resource

PATH = "/api/v3/openapi.json"
API_VERSION = "3"
"""Of the routes: the number in their paths."""
_TYPES: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "object": {"type": "object"},
    "list": {"oneOf": [{"type": "array", "items": {}}, {"type": "string"}]},
    "time": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    "any": {},
}
_PROBLEMS = {
    "400": "What was asked for makes no sense; nothing was done.",
    "401": "No token, or an unknown one.",
    "404": "Something that it names is not there.",
    "409": "It does not go together with what is there.",
    "503": "Not now; Retry-After says when.",
}


def routes() -> list[BaseRoute]:
    """The route that answers with the document."""

    async def show(request: Request) -> Response:
        del request
        return json_response(document())

    return [resource(PATH, GET=show)]


def document() -> dict[str, Any]:
    """The document."""
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Walmill",
            "version": API_VERSION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}, {"basic": []}],
        "tags": [{"name": shelf} for shelf in dict.fromkeys(one.shelf for one in OPERATIONS)],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic", "description": "With the token as password."},
            },
            "schemas": {
                "Problem": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {"error": {"type": "string"}, "data": {}},
                }
            },
        },
    }


def _operation(one: Operation) -> dict[str, Any]:
    problem = {JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    ok: dict[str, Any] = {"description": "It is done."}
    if one.answer is not None:
        ok["content"] = {one.answer: {"schema": {}}}
    problems = {code: {"description": what, "content": problem} for code, what in _PROBLEMS.items()}
    told: dict[str, Any] = {
        "operationId": f"{one.method.lower()}_{re.sub(r'[^a-z0-9]+', '_', one.path.removeprefix('/api')).strip('_')}",
        "summary": one.summary,
        "tags": [one.shelf],
        "responses": {str(one.status): ok, **problems},
    }
    if one.open:
        told["security"] = []
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", one.path)
    ]
    if one.takes_json:
        schema: dict[str, Any] = {"type": "object", "properties": {name: _schema(name) for name in one.members}}
        if one.required:
            schema["required"] = sorted(one.required)
        told["requestBody"] = {"required": bool(one.required), "content": {JSON: {"schema": schema}}}
    else:
        for name in one.members:
            described = _schema(name)
            parameters.append(
                {
                    "name": name,
                    "in": "query",
                    "required": name in one.required,
                    "description": described.pop("description"),
                    "schema": described,
                }
            )
        if one.body is not None:
            told["requestBody"] = {"required": True, "content": {one.body: {"schema": {}}}}
    if parameters:
        told["parameters"] = parameters
    return told


def _schema(name: str) -> dict[str, Any]:
    kind, meaning = MEANINGS[name]
    return {**_TYPES[kind], "description": meaning}
