import pytest

from attndistill.core.secrets import hidden, hidden_in, says_secret


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:pw@host:5432/studies", "postgresql+psycopg://me:***@host:5432/studies"),
        ("postgresql://me:p@ss/w:rd@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:two words'@host/db", "postgresql://me:***@host/db"),
        ("redis://:pw@host", "redis://:***@host"),
        ("https://ghp_0123456789@example.org/a", "https://***@example.org/a"),
        (
            "could not reach http://me:pw@host:5000/api (refused)",
            "could not reach http://me:***@host:5000/api (refused)",
        ),
        ("https://h/f.pth?token=abc&x=1#y", "https://h/f.pth?token=***&x=1#y"),
        ("https://h/f?X-Amz-Signature=abc&sig=d&key=e", "https://h/f?X-Amz-Signature=***&sig=***&key=***"),
        ("postgresql://h/db?user=me&password=pw", "postgresql://h/db?user=me&password=***"),
        ("host=h password=pw dbname=d", "host=h password=*** dbname=d"),
        ('{"api_key": "abc", "n": 1}', '{"api_key": "***", "n": 1}'),
        ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer ***"),
        ("Authorization: token abcdefghijkl", "Authorization: token ***"),
        ("AWS_SECRET_ACCESS_KEY=abc PGPASSWORD='pw' psql", "AWS_SECRET_ACCESS_KEY=*** PGPASSWORD='***' psql"),
        ("db_password = pw, n = 1", "db_password = ***, n = 1"),
        ("psql --db-password=pw --token abc -n 1", "psql --db-password=*** --token *** -n 1"),
        ("refused for the password 'pw'", "refused for the password '***'"),
        ("https://h/f?jwt=a&sas=b&pw=c&n=1", "https://h/f?jwt=***&sas=***&pw=***&n=1"),
        ("of hf_0123456789abcdefXYZ, it said", "of hf_***, it said"),
    ],
)
def test_passwords_and_tokens_are_hidden(text, shown):
    assert hidden(text) == shown
    assert hidden(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/me/a project/mlflow.db",
        "http://127.0.0.1:5000/#/experiments/1",
        "http://host:5000/path?mail=a@b.c",
        "ssh://git@example.org/repository",
        "feature: cls_token before the projector",
        "distill --row attndistill --distill.lambda 0.3",
        "a@b.c wrote at 12:30",
        "the password is asked for; token counts: 196",
        "cls_token=0.5 patch_tokens: 3 --probe.feature cls_token",
    ],
)
def test_what_is_no_secret_is_shown(text):
    assert hidden(text) == text


def test_secrets_deep_in_a_configuration_and_after_their_words_are_hidden():
    given = {"dino": {"url": "https://h/f?token=abc", "api_key": "abc", "n": 1}, "argv": ["x", "--password", "pw"]}
    shown = {"dino": {"url": "https://h/f?token=***", "api_key": "***", "n": 1}, "argv": ["x", "--password", "***"]}
    assert hidden_in(given) == shown


def test_a_long_line_is_read_quickly():
    assert hidden("://a" * 200_000).startswith("://a")


@pytest.mark.parametrize(
    "name",
    [".env", "a/.env.local", "prod.env", "id_rsa", "keys/my_id_ed25519", "server.PEM", "a.key", ".netrc", "token.txt",
     "aws_credentials.json", "client_secret.json", ".ssh/config", ".aws/config", "hf_token", "kaggle.json",
     "secrets/prod.yaml", ".env/prod", "my_private_key", "deploy_key", "kubeconfig", "vault.yml", "terraform.tfstate"],
)  # fmt: skip
def test_names_that_say_secret(name):
    assert says_secret(name)


@pytest.mark.parametrize(
    "name", ["attndistill/core/secrets.py", "tokens.py", "cls_token.py", "keys.yaml", "environment.json", "monkey.txt"]
)
def test_names_that_do_not(name):
    assert not says_secret(name)
