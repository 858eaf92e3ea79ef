"""Virtual hosts made and dropped quickly: one Erlang node stays attached to the broker and does what it reads on its
standard input, where each `rabbitmqctl` would start a node of its own for two seconds.
"""

import subprocess
import threading
from shutil import which

from deploy.local.stores.rabbitmq import NODE, USER, RabbitMQ

_LOOP = """
F = fun F() -> case io:get_line("") of
      eof -> halt();
      Line ->
        {ok, Tokens, _} = erl_scan:string(Line),
        {ok, Form} = erl_parse:parse_exprs(Tokens),
        {value, Value, _} = erl_eval:exprs(Form, []),
        io:format("~0p~n", [Value]),
        F()
    end end, F().
"""


class Vhosts:
    """Makes virtual hosts that the store's user may use, and drops them."""

    def __init__(self, rabbit: RabbitMQ) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._rabbit = rabbit
        self._node: subprocess.Popen[str] | None = None

    def _attach(self) -> "subprocess.Popen[str]":
        if self._node is None or self._node.poll() is not None:
            name, value = self._rabbit.state.marker
            argv = [which("erl") or "erl", "-noshell", "-hidden", "-sname", "vhosts@localhost", "-eval", _LOOP]
            self._node = subprocess.Popen(
                [*argv, "+S", "1:1", "+sbwt", "none"],
                env={**self._rabbit.environment(), name: value},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        return self._node

    def call(self, module: str, function: str, arguments: str) -> str:
        """Calls an Erlang function on the broker; `arguments` is an Erlang list. Raises when it does not end well."""
        with self._lock:
            node = self._attach()
            if node.stdin is None or node.stdout is None:
                raise RuntimeError("the Erlang node has no pipes")
            node.stdin.write(f"rpc:call('{NODE}', {module}, {function}, {arguments}).\n")
            node.stdin.flush()
            answer = node.stdout.readline().strip()
        if not answer or answer.startswith(("{badrpc", "{error")):
            raise RuntimeError(f"{module}:{function}({arguments}): {answer or 'the Erlang node ended'}")
        return answer

    def make(self) -> str:
        """Makes a virtual host and returns its name."""
        self._count += 1
        name = f"test-{self._count}"
        self.call("rabbit_vhost", "add", f'[<<"{name}">>, <<"{USER}">>]')
        everything = '<<".*">>'
        arguments = f'[<<"{USER}">>, <<"{name}">>, {everything}, {everything}, {everything}, <<"{USER}">>]'
        self.call("rabbit_auth_backend_internal", "set_permissions", arguments)
        return name

    def drop(self, name: str) -> None:
        """Drops a virtual host with all its queues and connections."""
        self.call("rabbit_vhost", "delete", f'[<<"{name}">>, <<"{USER}">>]')

    def close(self) -> None:
        """Ends the attached node."""
        if self._node is not None:
            self._node.kill()
            self._node.communicate()
            self._node = None
