"""The table at the end of a start: where everything is and how to log in."""

from deploy.local.environment import without_password
from deploy.local.mesh import Mesh


def summary(mesh: Mesh, seconds: float) -> str:
    """The table; passwords of stores are left out, `.run/env` has them."""
    rows = {
        "API": mesh.gateway_url,
        "API documentation": f"{mesh.gateway_url}/docs",
        "admin login": f"{mesh.secrets['ADMIN_USERNAME']} / {mesh.secrets['ADMIN_PASSWORD']}",
        **{
            name.removesuffix("_ADDRESS").lower(): mesh.given[name] for name in sorted(mesh.given) if "_ADDRESS" in name
        },
        "Postgres": without_password(mesh.given["DATABASE_URL"]),
        "Redis": without_password(mesh.given["REDIS_URL"]),
        "RabbitMQ": without_password(mesh.given["AMQP_URL"]),
        "Consul": mesh.given.get("CONSUL_URL", "none: fixed addresses"),
        "Jaeger": mesh.jaeger_url or "none: `make jaeger` builds one",
    }
    width = max(len(name) for name in rows)
    lines = [f"  {name:<{width}}  {value}" for name, value in rows.items()]
    return "\n".join(["", f"AgentMesh is up after {seconds:.1f} s.", *lines, ""])
