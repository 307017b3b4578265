"""Every error that a person can meet. The docstring is the message; it says who must act and what to do.

Plain exceptions, since schemas know nothing of Temporal: activities and workflows turn them into its failures
(`retryable` says whether trying again can help).
"""

from __future__ import annotations

import inspect


class LifeboatError(Exception):
    """Something went wrong in Lifeboat; send the maintainers the run's id and its report."""

    retryable = True

    def __init__(self, detail: str = "") -> None:
        message = inspect.cleandoc(type(self).__doc__ or "")
        super().__init__(f"{message} ({detail})" if detail else message)
        self.detail = detail


class TopologyInvalid(LifeboatError):
    """The topology can't be used; its owner must correct the places named here."""

    retryable = False


class UnknownService(LifeboatError):
    """The topology declares no such service; whoever started the run must name one of those it lists."""

    retryable = False


class UnknownMember(LifeboatError):
    """The service has no such member; whoever started the run must name one of those it lists."""

    retryable = False


class SecretUnavailable(LifeboatError):
    """A secret's reference can't be resolved on this worker; its operator must provide it and restart the worker."""


class MemberUnreachable(LifeboatError):
    """A database server doesn't answer; its owner should look at the server and its network."""


class RouteUnavailable(LifeboatError):
    """A route's control doesn't answer; its owner should look at the pooler or the DNS server."""


class PauseRefused(LifeboatError):
    """Clients of a pooler did not end their transactions in time, so that it was let go on; whoever runs the long ones
    must end them, or `switchover.pause_s` be raised, then start the switchover again."""

    retryable = False


class EpochUnavailable(LifeboatError):
    """The epoch store doesn't answer; its owner must bring it back, or a person must override, on record."""


class EpochSuperseded(LifeboatError):
    """A newer run holds this service's epoch, so this one changes nothing; look at the newer run."""

    retryable = False


class CandidateChanged(LifeboatError):
    """The epoch's record names another candidate than this run chose; nobody may promote; a person must look."""

    retryable = False


class NotYet(LifeboatError):
    """The state that a step waits for is not reached yet; it is looked at again by itself."""


class NoRoom(LifeboatError):
    """A copy of the leader does not fit on the member's disk; the node's owner must make room, then retry."""

    retryable = False


class SlotMissing(LifeboatError):
    """A standby follows by a replication slot that its new upstream has not, and Lifeboat can't make it; the server's
    owner must make it, or let Lifeboat do so (`ALTER ROLE lifeboat REPLICATION`)."""


class SurvivorMissing(LifeboatError):
    """A voter that must confirm the new primary's commits doesn't follow it; the run looks whether another can, else a
    person must bring it back, and retry."""

    retryable = False


class PromotionRefused(LifeboatError):
    """The candidate may not be promoted as it stands; a person must look before anything else is done."""

    retryable = False


class NodeControlFailed(LifeboatError):
    """A node's control command failed; the node's owner must do by hand what it was asked to do."""


class DataFolderFailed(LifeboatError):
    """The work on a member's data folder failed; the node's owner must look at what its own programs say here, then
    retry."""


class JobFailed(LifeboatError):
    """A rewind or a copy on a node failed; the run does what is left to do, else the node's owner must mend what its
    own programs say here, then retry."""

    retryable = False


class NodeRuns(LifeboatError):
    """The server of a member that is to be worked on runs again: somebody, or something, has started it; its
    owner should find out what starts it, while the run stops it anew."""

    retryable = False


class StartedInVain(LifeboatError):
    """A member's server was started and ended again, or runs and takes no session; its owner must look at its own log,
    mend what that says, then retry."""


class SecondPrimary(LifeboatError):
    """A member that was started as a standby came up as a primary, and was stopped at once; a person must look at its
    data folder before anything starts it."""

    retryable = False


class HostKeyChanged(LifeboatError):
    """A node's SSH host key is not one that known_hosts has for it, so that nothing was sent there; the node's owner
    must find out whether the machine was replaced, put its key there if so, and do by hand what was asked."""

    retryable = False


class IsolationFailed(LifeboatError):
    """A node could not be cut off, or let back, by the cloud's API; the account's owner must look, or do it."""


class NoticeUndelivered(LifeboatError):
    """A notification did not reach its target; it is tried again by itself, and the target's owner should look."""


class ReportNotKept(LifeboatError):
    """The report is not in its storage yet; it is tried again by itself, and the storage's owner should look."""


class ServiceLocked(LifeboatError):
    """Another run works on this service; wait for it, or abort it, then start again."""

    retryable = False


class AnswerRefused(LifeboatError):
    """The answer doesn't count; read the question again, and answer what it asks now."""

    retryable = False


class CacheUnreachable(LifeboatError):
    """A Redis server or a Sentinel can't be asked; its owner should look at the server and its network."""


class NotElected(LifeboatError):
    """Sentinel moved nothing, and the old master leads as before; an operator may try again once it is calm."""

    retryable = False


class QueueUnreachable(LifeboatError):
    """A RabbitMQ node, or its management API, doesn't answer; its owner should look at the node and its network."""


class QueueRefused(LifeboatError):
    """RabbitMQ refuses what it was asked; its owner must see to the rights of Lifeboat's user, or mend what it says."""


class DefinitionsDiffer(LifeboatError):
    """The two clusters' definitions differ after the import, and a message could have nowhere to go; their owner must
    make them equal where this says, then retry."""

    retryable = False


class StillOpen(LifeboatError):
    """A cluster that was closed still lets a client in; a person must look who is connected there, before anything is
    moved off it."""


class DrainStalled(LifeboatError):
    """Messages are left in a cluster that is drained, and no more of them move; the destination's owner must look at
    its alarms and limits."""

    retryable = False


class NoElection(LifeboatError):
    """A queue has no leader that the other nodes know; the cluster's owner must bring back enough of its nodes."""


class BackupsUnreadable(LifeboatError):
    """The repository of the backups can't be read; its owner must look at what is said here: credentials, key, network,
    storage. It is tried again by itself."""


class NoBackupFits(LifeboatError):
    """No backup leads to that target; whoever started the run must name another one, as it says here."""

    retryable = False


class WalMissing(LifeboatError):
    """The archive has not every WAL file that the target takes; its owner must look for the file, and whoever started
    the run may name a target before it."""

    retryable = False


class TargetNotReached(LifeboatError):
    """Recovery ran out of WAL before the target; whoever started the run must name one that is archived."""

    retryable = False


class RestoreHostFailed(LifeboatError):
    """The work on the restore host failed; its owner must look at what its own programs say here. It is tried again by
    itself, and goes on where it was."""


class RestoreFailed(LifeboatError):
    """A restore ended in vain, and again would; the backups' owner must look at what is said here, then retry."""

    retryable = False


class ManifestMissing(LifeboatError):
    """The leader has no table for its manifest; its owner must carry out lifeboat.sql there once more."""

    retryable = False


class NoRoomToRestore(LifeboatError):
    """The restore host has not the room that a copy takes; its owner must make room there, then retry."""

    retryable = False


class CopyBackRefused(LifeboatError):
    """The tables can't be written back as things stand; whoever decides must look at what stands in their way."""

    retryable = False


class BackupUnderWay(LifeboatError):
    """Another backup of this service, or a removal, is under way on the node; whoever started the run waits with it."""

    retryable = False


class BackupOvertaken(LifeboatError):
    """The member that the backup was being taken from leads no more; nobody need act: the run begins anew from who
    does."""

    retryable = False


class BackupFailed(LifeboatError):
    """A backup ended in vain; the run tries again from whoever leads then, else the backups' owner must look at what
    pgBackRest says here, and start it again."""

    retryable = False


class FullNeeded(LifeboatError):
    """What a killed full backup left keeps pgBackRest from any but a full one; whoever started the run with another
    kind must ask for that."""

    retryable = False
