# pragma version 0.4.3
# pragma optimize gas
"""
@title Heads of transparency logs, anchored.
@notice Each sender keeps, for each log (SHA-256 of its origin), heads (SHA-256 of the checkpoint's text) of rising sizes.
        Nothing here can be changed or taken back; nobody can write under another's address.
"""

event Anchored:
    sender: indexed(address)
    origin: indexed(bytes32)
    size: uint64
    head: bytes32


sizes: public(HashMap[address, HashMap[bytes32, uint64]])


@external
def anchor(origin: bytes32, size: uint64, head: bytes32):
    """
    @notice Anchor a head that is larger than the sender's newest one of this log.
    """
    assert size > self.sizes[msg.sender][origin], "size must rise"
    self.sizes[msg.sender][origin] = size
    log Anchored(sender=msg.sender, origin=origin, size=size, head=head)
