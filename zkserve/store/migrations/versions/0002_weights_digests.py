"""What tells that versions share weights, so that their proofs count together."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table("versions") as batch:
        batch.add_column(
            sa.Column("weights_digests", sa.JSON(), nullable=False, server_default="[]")
        )


def downgrade() -> None:
    """Revert."""
    with op.batch_alter_table("versions") as batch:
        batch.drop_column("weights_digests")
