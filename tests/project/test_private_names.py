"""Dependencies have the private names that the node uses, and only adapters use them.

Each dependency has one adapter. To accept a new version of a dependency, install it and
run this file: a failed test names what has changed, and what the node needs it for.
"""

import ast
import importlib
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import CodeType

import pytest
from packaging.requirements import Requirement
from pynetdicom.dul import DULServiceProvider

ROOT = Path(__file__).parents[2]
PRODUCT = ("api", "config", "dicom_node", "inference", "models")
ADAPTERS = {
    "dbos": "dicom_node/storage/dbos_adapter.py",
    "pydicom": "dicom_node/dataset/pydicom_limits.py",
    "pynetdicom": "dicom_node/network/pynetdicom_adapter.py",
    "starlette": "api/http/form_parser.py",
    "uvicorn": "api/http/protocol.py",
}
# These modules are not documented, although their names have no underscore.
UNDOCUMENTED = ("uvicorn.protocols",)
# Methods of named tuples, and of rows of SQLAlchemy; documented despite their names.
DOCUMENTED = {"_asdict", "_replace"}


@dataclass(frozen=True)
class PrivateName:
    """A private or undocumented name of a dependency.

    Attributes:
        owner: The module, or the module and an object in it, as "module:object".
        name: The name in its owner.
        use: What the node uses it for.
        used_by: Functions of the dependency that use the name. If they no longer use
            the name, its replacement by the node has no effect.
        parameters: The names of the parameters of a function, such as "self, reason".
            None if they are not checked.
    """

    owner: str
    name: str
    use: str
    used_by: tuple[str, ...] = ()
    parameters: str | None = None

    @property
    def distribution(self) -> str:
        return self.owner.partition(".")[0]


ASSOCIATION = "pynetdicom.association:Association"
UPPER_LAYER = "pynetdicom.dul:DULServiceProvider"
THREAD = f"{ASSOCIATION}.__init__"
FSM = "pynetdicom.fsm"
STATES = f"{FSM}:StateMachine"
SOCKET = "pynetdicom.transport:AssociationSocket"
DIMSE = "pynetdicom.dimse:DIMSEServiceProvider"
CONFIG = "pynetdicom._config"
H11 = "uvicorn.protocols.http.h11_impl"
PROTOCOL = f"{H11}:H11Protocol"
CYCLE = f"{H11}:RequestResponseCycle"
PARSER = "starlette.formparsers:MultiPartParser"
WORK = "dbos._schemas.system_database:SystemSchema.workflow_status.c"

NAMES = [
    PrivateName(
        CONFIG,
        "LOG_HANDLER_LEVEL",
        "no texts of PDUs and messages are built and logged",
        (f"{ASSOCIATION}._bind_defaults",),
    ),
    PrivateName(
        CONFIG,
        "STORE_SEND_CHUNKED_DATASET",
        "files are sent without parsing",
        (f"{ASSOCIATION}.send_c_store",),
    ),
    PrivateName(
        CONFIG,
        "VALIDATORS",
        "UIDs of more than 64 characters are sent, and do not abort an association",
        ("pynetdicom.utils:set_uid",),
    ),
    PrivateName(
        "pynetdicom.presentation:PresentationContext",
        "_context_id",
        "even presentation context IDs are accepted",
        ("pynetdicom.presentation:PresentationContext.context_id",),
    ),
    PrivateName(
        UPPER_LAYER,
        "_is_transport_event",
        "after an abort, received data is discarded and not read as PDUs",
        (f"{UPPER_LAYER}.run_reactor",),
        "self",
    ),
    PrivateName(
        UPPER_LAYER,
        "_read_pdu_data",
        "P-DATA-TF PDUs are read without copies",
        (f"{UPPER_LAYER}._is_transport_event",),
        "self",
    ),
    PrivateName(
        UPPER_LAYER,
        "_decode_pdu",
        "PDUs are rewritten before pynetdicom decodes them",
        (f"{UPPER_LAYER}._read_pdu_data",),
        "self, bytestream",
    ),
    PrivateName(
        UPPER_LAYER,
        "_recv_pdu",
        "P-DATA-TF PDUs that the node has read are handed to the state machine",
        (f"{UPPER_LAYER}.__init__", f"{FSM}:DT_2"),
    ),
    PrivateName(
        ASSOCIATION,
        "_serve_request",
        "invalid requests are answered or end the association",
        (
            f"{ASSOCIATION}._run_reactor",
            f"{DIMSE}.receive_primitive",
        ),
        "self, msg, context_id",
    ),
    PrivateName(
        ASSOCIATION,
        "_abort_blocking",
        "an abort confirms a release that the peer has requested",
        (f"{ASSOCIATION}.abort", "pynetdicom.events:trigger"),
        "self, block",
    ),
    PrivateName(
        ASSOCIATION,
        "_reactor_checkpoint",
        "the thread of an idle association waits and does not poll",
        (f"{ASSOCIATION}.__init__", f"{ASSOCIATION}._run_reactor"),
    ),
    PrivateName(
        ASSOCIATION,
        "_is_paused",
        "an association without a thread of its own can send requests",
        (f"{ASSOCIATION}.__init__", f"{ASSOCIATION}.send_c_store"),
    ),
    # The node overrides or replaces these public names. The documentation does not say
    # when pynetdicom uses them.
    *(
        PrivateName(owner, name, use, (user,))
        for owner, name, use, user in [
            (ASSOCIATION, "run_reactor", "resources are released", THREAD),
            (ASSOCIATION, "kill", "a connection is cut", f"{ASSOCIATION}._run_reactor"),
            (
                UPPER_LAYER,
                "idle_timer_expired",
                "an association without progress is aborted",
                f"{ASSOCIATION}._run_reactor",
            ),
            (
                UPPER_LAYER,
                "to_user_queue",
                "messages wake threads",
                f"{UPPER_LAYER}.receive_pdu",
            ),
            (
                UPPER_LAYER,
                "to_provider_queue",
                "messages wake threads",
                f"{UPPER_LAYER}.send_pdu",
            ),
            (
                STATES,
                "do_action",
                "wrong events are dropped",
                f"{UPPER_LAYER}.run_reactor",
            ),
            (STATES, "transition", "the end wakes threads", f"{STATES}.do_action"),
            (
                FSM,
                "TRANSITION_TABLE",
                "wrong events are dropped",
                f"{STATES}.do_action",
            ),
            (
                SOCKET,
                "ready",
                "a thread waits for data",
                f"{UPPER_LAYER}._is_transport_event",
            ),
            (
                SOCKET,
                "recv",
                "size and time of a PDU are limited",
                f"{UPPER_LAYER}._read_pdu_data",
            ),
            (SOCKET, "send", "an A-ASSOCIATE-AC is completed", f"{UPPER_LAYER}._send"),
            (SOCKET, "close", "a close_notify is sent", f"{FSM}:AA_2"),
            (DIMSE, "receive_primitive", "fragments are limited", f"{FSM}:DT_2"),
            (DIMSE, "send_msg", "responses are matched", f"{ASSOCIATION}.send_c_store"),
            (DIMSE, "msg_queue", "messages wake threads", f"{DIMSE}.get_msg"),
            (
                "pynetdicom.pdu:P_DATA_TF",
                "to_primitive",
                "fragments are not copied",
                f"{FSM}:DT_2",
            ),
        ]
    ),
    PrivateName(
        "dbos._queue",
        "queue_worker_thread",
        "new work starts at once; without this name it starts at the next poll",
        ("dbos._queue:queue_thread",),
        "stop_event, dbos, queue",
    ),
    PrivateName(
        "dbos._serialization:DefaultSerializer",
        "deserialize",
        "pickles in the database are refused",
        (
            "dbos._serialization:deserialize_args",
            "dbos._serialization:deserialize_value",
            "dbos._serialization:deserialize_exception",
        ),
    ),
    *(
        PrivateName(WORK, column, "images of all senders take turns")
        for column in ("queue_name", "status", "priority")
    ),
    PrivateName(
        "pydicom.filereader",
        "data_element_generator",
        "the elements of a dataset are counted",
        ("pydicom.filereader:read_dataset",),
    ),
    PrivateName(
        "pydicom.filereader",
        "read_sequence_item",
        "the items of a dataset are counted",
        ("pydicom.filereader:read_sequence",),
    ),
    PrivateName(
        PARSER,
        "_current_part",
        "the field `file` of a form is read as a file, even without a file name",
        (f"{PARSER}.__init__", f"{PARSER}.on_headers_finished"),
    ),
    PrivateName(
        PARSER,
        "on_headers_finished",
        "the headers of a part are changed before they are used",
        (f"{PARSER}.parse",),
        "self",
    ),
    *(
        PrivateName(PROTOCOL, name, use, (f"{PROTOCOL}.{user}",), parameters)
        for name, use, user, parameters in [
            ("conn", "h11 is replaced by StrictConnection", "__init__", None),
            ("cycle", "the node knows if a request is served", "__init__", None),
            ("flow", "the rest of a refused body is read", "__init__", None),
            ("loop", "time limits are set", "__init__", None),
            ("transport", "connections are aborted", "__init__", None),
            ("handle_events", "a response ends by `_end`", "data_received", "self"),
            ("send_400_response", "errors are JSON", "handle_events", "self, msg"),
            (
                "on_response_complete",
                "no request follows a refused one",
                "handle_events",
                "self",
            ),
            (
                "timeout_keep_alive_handler",
                "an idle connection is aborted if its client does not read",
                "on_response_complete",
                "self",
            ),
        ]
    ),
    *(
        PrivateName(CYCLE, name, use, (f"{CYCLE}.__init__", f"{CYCLE}.{user}"))
        for name, use, user in [
            ("transport", "the rest of a request is dropped before the end", "send"),
            ("response_complete", "the node knows if a request is served", "send"),
            ("disconnected", "the application learns of a refused body", "receive"),
            ("message_event", "the application learns of a refused body", "receive"),
        ]
    ),
]


def change(private: PrivateName) -> str:
    """Return what has changed about a name, and what the node needs it for, as text.

    If nothing has changed, the text is empty.
    """
    installed = f"{private.distribution} {version(private.distribution)}"
    needed = (
        f"The node needs {private.owner}.{private.name}: {private.use}. The "
        f"adapter is {ADAPTERS[private.distribution]}."
    )
    try:
        owner = found(private.owner)
    except (ImportError, AttributeError) as error:
        return f"{installed}: {error}. {needed}"
    value = getattr(owner, private.name, None)
    if value is None and private.name not in names_in(getattr(owner, "__init__", None)):
        return f"{installed} has no {private.owner}.{private.name}. {needed}"
    if private.parameters is not None:
        parameters = ", ".join(inspect.signature(value).parameters)
        if parameters != private.parameters:
            differ = f"({parameters}), not ({private.parameters})"
            return f"{installed}: {private.name} has the parameters {differ}. {needed}"
    for user in private.used_by:
        try:
            if private.name in names_in(found(user)):
                continue
        except (ImportError, AttributeError):
            pass
        return f"{installed}: {user} does not use {private.name}. {needed}"
    return ""


def found(path: str) -> object:
    module, _, names = path.partition(":")
    value: object = importlib.import_module(module)
    for name in filter(None, names.split(".")):
        value = getattr(value, name)
    return value


def names_in(function: object) -> set[str]:
    """Return the names of globals and attributes that a function or property uses.

    If `function` has no Python code, the set is empty.
    """
    function = getattr(function, "fget", None) or getattr(
        function, "__func__", function
    )
    code = getattr(function, "__code__", None)
    return set(code_names(code)) if code else set()


def code_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from code_names(constant)


@pytest.mark.parametrize("private", NAMES, ids=lambda p: f"{p.owner}.{p.name}")
def test_private_name_is_as_the_node_needs_it(private: PrivateName) -> None:
    assert not change(private), change(private)


def listed(name: str) -> PrivateName:
    return next(each for each in NAMES if each.name == name)


class TestChange:
    """The function `change` finds each kind of change in a dependency."""

    INSTALLED = f"pynetdicom {version('pynetdicom')}"
    USE = "PDUs are rewritten before pynetdicom decodes them"

    def test_names_a_method_that_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(DULServiceProvider, "_decode_pdu")

        assert change(listed("_decode_pdu")) == (
            f"{self.INSTALLED} has no {UPPER_LAYER}._decode_pdu. The node needs "
            f"{UPPER_LAYER}._decode_pdu: {self.USE}. The adapter is "
            f"{ADAPTERS['pynetdicom']}."
        )

    def test_names_other_parameters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def decode(self: object, kind: int, content: bytes) -> None: ...

        monkeypatch.setattr(DULServiceProvider, "_decode_pdu", decode)

        assert change(listed("_decode_pdu")).startswith(
            f"{self.INSTALLED}: _decode_pdu has the parameters (self, kind, content), "
            f"not (self, bytestream). The node needs {UPPER_LAYER}._decode_pdu: "
        )

    def test_names_the_function_that_does_not_use_it_any_more(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read(self: object) -> None: ...

        monkeypatch.setattr(DULServiceProvider, "_read_pdu_data", read)

        assert change(listed("_decode_pdu")).startswith(
            f"{self.INSTALLED}: {UPPER_LAYER}._read_pdu_data does not use _decode_pdu. "
        )

    def test_names_a_module_that_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "dbos._queue", None)

        message = change(listed("queue_worker_thread"))

        assert message.startswith(f"dbos {version('dbos')}: import of dbos._queue ")
        assert message.endswith(f"The adapter is {ADAPTERS['dbos']}.")

    def test_names_an_attribute_that_is_gone(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def create(self: object) -> None: ...

        monkeypatch.setattr(DULServiceProvider, "__init__", create)

        assert change(listed("_recv_pdu")).startswith(
            f"{self.INSTALLED} has no {UPPER_LAYER}._recv_pdu. "
        )


SOURCES = [
    path.relative_to(ROOT) for each in PRODUCT for path in (ROOT / each).rglob("*.py")
]
IS_PRIVATE = re.compile(r"_(?!_)\w+").fullmatch
PRIVATE_MODULE = re.compile(rf"({'|'.join(ADAPTERS)})(\.\w+)*\._\w+").fullmatch


def is_dependency(module: str) -> bool:
    root = module.partition(".")[0]
    return root not in {*PRODUCT, *sys.stdlib_module_names, "_typeshed"}


class Scan(ast.NodeVisitor):
    """A visitor that finds the private names of dependencies in a module.

    Attributes:
        found: The private names, the used modules of UNDOCUMENTED, and "owner.name" of
            each attribute of a dependency that the module replaces.
    """

    def __init__(self, source: str, module: str, own: set[str]) -> None:
        self.found: set[str] = set()
        self._module = module
        self._own = own
        self._imported: set[str] = set()
        self._inherited: set[str] = set()
        self.visit(ast.parse(source))

    def visit_Import(self, node: ast.Import) -> None:
        for each in node.names:
            if is_dependency(each.name):
                self._imported.add(each.asname or each.name.partition(".")[0])
                self._check_path(each.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.module and is_dependency(node.module):
            for each in node.names:
                self._imported.add(each.asname or each.name)
                self._check_path(f"{node.module}.{each.name}")

    def _check_path(self, path: str) -> None:
        self.found |= set(filter(IS_PRIVATE, path.split(".")))
        self.found |= {each for each in UNDOCUMENTED if path.startswith(f"{each}.")}

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and PRIVATE_MODULE(node.value):
            self._check_path(node.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        inherited, self._inherited = self._inherited, self._private_names_of(node.name)
        self.generic_visit(node)
        self._inherited = inherited

    def _private_names_of(self, name: str) -> set[str]:
        """Return the private names of dependencies that a class inherits.

        They include the private names that the inherited methods use.
        """
        module = importlib.import_module(self._module)
        bases = inspect.getmro(getattr(module, name, object))
        names: set[str] = set()
        for base in filter(lambda each: is_dependency(each.__module__), bases):
            names |= vars(base).keys()
            names = names.union(*map(names_in, vars(base).values()))
        return set(filter(IS_PRIVATE, names))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.found |= {node.name} & self._inherited
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        is_own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
        if node.attr in self._inherited or (
            IS_PRIVATE(node.attr) and not is_own and node.attr not in self._own
        ):
            self.found.add(node.attr)
        is_replaced = isinstance(node.ctx, ast.Store) and isinstance(
            node.value, ast.Name
        )
        if is_replaced and node.value.id in self._imported:
            self.found.add(f"{node.value.id}.{node.attr}")
        self.generic_visit(node)


def own_names(source: str) -> set[str]:
    """Return the private names that a module defines."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return set(filter(IS_PRIVATE, names))


def scanned(path: Path, own: set[str]) -> set[str]:
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    return Scan((ROOT / path).read_text(), module, own).found


@pytest.fixture(scope="module")
def own() -> set[str]:
    paths = {str(path) for path in SOURCES} - set(ADAPTERS.values())
    return DOCUMENTED.union(*(own_names((ROOT / each).read_text()) for each in paths))


def test_only_adapters_use_private_names(own: set[str]) -> None:
    others = [path for path in SOURCES if str(path) not in ADAPTERS.values()]

    uses = {str(path): scanned(path, own) for path in others}

    assert {path: names for path, names in uses.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from pynetdicom import AE, _config", {"_config"}),
        ("from dbos._serialization import DefaultSerializer", {"_serialization"}),
        ("import sys; sys.modules['dbos._queue']", {"_queue"}),
        ("from uvicorn.protocols import http", {"uvicorn.protocols"}),
        ("association._serve_request(None, 1)", {"_serve_request"}),
        ("class Connection:\n def _serve_request(self): ...", {"_serve_request"}),
        ("class Connection:\n def f(self): self._is_paused", {"_is_paused"}),
        ("from pydicom import filereader as f; f.dcmread = None", {"f.dcmread"}),
        ("class Connection:\n def _overdue(self): self._count", set()),
        ("import queue; queue._private; row._asdict()", {"_private"}),
    ],
)
def test_scan_finds_private_names(source: str, names: set[str]) -> None:
    scan = Scan(source, "dicom_node.receiver.association", DOCUMENTED)

    assert scan.found == names


@pytest.mark.parametrize("distribution", ADAPTERS)
def test_table_lists_each_private_name_of_an_adapter(
    distribution: str, own: set[str]
) -> None:
    known = " ".join(
        f"{each.owner}.{each.name} "
        for each in NAMES
        if each.distribution == distribution
    )

    used = scanned(Path(ADAPTERS[distribution]), own)

    assert used
    assert {each for each in used if each.rpartition(".")[2] not in known} == set()


@pytest.mark.parametrize("distribution", ADAPTERS)
def test_versions_are_limited_to_the_tested_ones(distribution: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = map(Requirement, project["dependencies"])
    (limits,) = (each.specifier for each in requirements if each.name == distribution)

    assert {each.operator for each in limits} == {">=", "<"}
    assert version(distribution) in limits
