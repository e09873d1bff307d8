// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";
import {IProofVerifier} from "./IProofVerifier.sol";

/// @title Registry of models and their immutable versions, shaped after ERC-7992.
/// @notice A model is an owner and a name. Each version has an id of its own and never changes;
/// what ERC-7992 calls `modelId` is here the id of a version. Nobody but a model's owner has any
/// power over it, and the owner's powers are: publish a next version, deprecate one, hand over.
interface IModelRegistry is IERC165 {
    /// @notice ERC-7992's commitment to what is served.
    /// @param modelHash SHA-256 of the ONNX file.
    /// @param circuitHash The circuit id: what is proved, by digest.
    /// @param vkHash SHA-256 of the verifying key.
    /// @param proofSystemId keccak256 of engine and version, e.g. "ezkl/23.0.5".
    /// @param uri Where the public artifacts are served.
    struct ModelCommitment {
        bytes32 modelHash;
        bytes32 circuitHash;
        bytes32 vkHash;
        bytes32 proofSystemId;
        string uri;
    }

    /// @notice What zkserve pins beside it.
    /// @param verifier The adapter that verifies claims of this circuit. If it has a `context()` (see
    /// IContextVerifier), it must be that of the version that is published with it.
    /// @param weights The weights commitment that every claim must carry.
    /// @param outputMultiplier With `outputShift`: real output = integer * multiplier / 2**shift.
    /// @param agreementPpb Largest output difference from the float model on held-out samples, in
    /// billionths of the output's unit.
    /// @param developmentSrs True where the SRS secret may be known: proofs can be forged.
    struct Binding {
        IProofVerifier verifier;
        bytes32 weights;
        uint64 outputMultiplier;
        uint8 outputShift;
        uint64 agreementPpb;
        bool developmentSrs;
    }

    struct Version {
        bytes32 lineage; // keccak256(abi.encode(first owner, name)): the Model
        uint32 number; // 1, 2, 3 …
        uint64 publishedAt;
        bool deprecated;
        ModelCommitment commitment;
        Binding binding;
    }

    event ModelRegistered(
        uint256 indexed modelId,
        address indexed owner,
        bytes32 indexed lineage,
        uint32 number,
        string name,
        bytes32 circuitHash
    );
    event ModelDeprecated(uint256 indexed modelId, address indexed owner);
    event OwnershipOffered(bytes32 indexed lineage, address indexed owner, address indexed successor);
    event OwnershipTransferred(bytes32 indexed lineage, address indexed from, address indexed to);

    error NameTaken(bytes32 lineage);
    error NotModelOwner(bytes32 lineage, address caller);
    error UnknownModel(uint256 modelId);
    error AlreadyDeprecated(uint256 modelId);
    error InvalidCommitment(string field);
    /// @notice The verifier says that it serves another version, or one of another registry or chain.
    error ForeignVerifier(uint256 modelId, IProofVerifier verifier);

    /// @notice Registers version 1 of a new model owned by the caller.
    function registerModel(
        string calldata name,
        ModelCommitment calldata commitment,
        Binding calldata binding
    ) external returns (uint256 modelId);
    /// @notice Registers the next version of the model that `previousId` is a version of.
    function updateModel(uint256 previousId, ModelCommitment calldata commitment, Binding calldata binding)
        external
        returns (uint256 modelId);
    /// @notice Marks a version as no longer offered; open requests can still be fulfilled or refunded.
    function deprecateModel(uint256 modelId) external;
    function offerOwnership(bytes32 lineage, address successor) external;
    function acceptOwnership(bytes32 lineage) external;

    function getModel(uint256 modelId) external view returns (ModelCommitment memory);
    function getVersion(uint256 modelId) external view returns (Version memory);
    function ownerOf(uint256 modelId) external view returns (address);
    /// @notice Newest version of a lineage; 0 where there is none.
    function latest(bytes32 lineage) external view returns (uint256 modelId);
    /// @notice The id a version has or will have.
    function versionId(bytes32 lineage, uint32 number) external view returns (uint256);
    function lineageOf(address owner, string calldata name) external pure returns (bytes32);
    /// @notice Reverts unless `proof` proves that this version maps `input` to `outputs`.
    function verifyInference(
        uint256 modelId,
        bytes calldata input,
        int256[] calldata outputs,
        bytes calldata proof
    ) external view;
}
