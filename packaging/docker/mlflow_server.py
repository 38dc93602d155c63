"""Starts MLflow's server in its container: the secrets come from files, the bucket is made when it is missing.

    MLFLOW_DATABASE_FILE            file with the address of the database, password included
    MLFLOW_ARTIFACTS                where artifacts are kept, s3://BUCKET/FOLDER
    MLFLOW_S3_ENDPOINT_URL, AWS_*   as boto3 and MLflow know them; AWS_SHARED_CREDENTIALS_FILE has the login
    MLFLOW_PORT                     the port to listen on

Options are handed on to `mlflow server`.
"""

import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

WAIT_S = 60
PAUSE_S = 1.0


def main(options: list[str]) -> None:
    """Become MLflow's server."""
    artifacts, port = os.environ["MLFLOW_ARTIFACTS"], os.environ["MLFLOW_PORT"]
    make_bucket(urlsplit(artifacts).netloc)
    # In the environment, where `ps` does not show it.
    os.environ["MLFLOW_BACKEND_STORE_URI"] = Path(os.environ["MLFLOW_DATABASE_FILE"]).read_text().strip()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "0.0.0.0", "--port", port]  # noqa: S104 - a container
    os.execv(sys.executable, [*command, "--artifacts-destination", artifacts, *options])  # noqa: S606


def make_bucket(name: str) -> None:
    """Make the bucket where it is not there; wait for the object store at most a minute."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=name)
                print(f"made the bucket {name}", flush=True)
            return
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                sys.exit(f"the object store cannot be used: {error}")
            print(f"waiting for the object store: {error}", flush=True)
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main(sys.argv[1:])
