// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";
import {IContextVerifier} from "./interfaces/IContextVerifier.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {Claim, IProofVerifier} from "./interfaces/IProofVerifier.sol";
import {CONTEXT_TAG} from "./native/NativeProof.sol";

/// @title Registry of models and their immutable versions, without an administrator.
/// @dev Nothing of a version is ever written again but its `deprecated` flag, which only rises.
contract ModelRegistry is IModelRegistry {
    struct Lineage {
        address owner;
        address successor;
        uint32 latest;
        string name;
    }

    /// @dev Far more than a generated verifier needs to name its context; what takes more has none.
    uint256 private constant CONTEXT_GAS = 30_000;

    mapping(bytes32 lineage => Lineage) private _lineages;
    mapping(uint256 modelId => Version) private _versions;

    /// @inheritdoc IModelRegistry
    function registerModel(
        string calldata name,
        ModelCommitment calldata commitment,
        Binding calldata binding
    ) external returns (uint256 modelId) {
        require(bytes(name).length > 0, InvalidCommitment("name"));
        bytes32 lineage = lineageOf(msg.sender, name);
        require(_lineages[lineage].latest == 0, NameTaken(lineage));
        _lineages[lineage].owner = msg.sender;
        _lineages[lineage].name = name;
        modelId = _publish(lineage, commitment, binding);
        emit ModelRegistered(modelId, msg.sender, lineage, 1, name, commitment.circuitHash);
    }

    /// @inheritdoc IModelRegistry
    function updateModel(uint256 previousId, ModelCommitment calldata commitment, Binding calldata binding)
        external
        returns (uint256 modelId)
    {
        bytes32 lineage = _ownedLineage(previousId);
        modelId = _publish(lineage, commitment, binding);
        Lineage storage model = _lineages[lineage];
        emit ModelRegistered(modelId, msg.sender, lineage, model.latest, model.name, commitment.circuitHash);
    }

    /// @inheritdoc IModelRegistry
    function deprecateModel(uint256 modelId) external {
        _ownedLineage(modelId);
        Version storage version = _versions[modelId];
        require(!version.deprecated, AlreadyDeprecated(modelId));
        version.deprecated = true;
        emit ModelDeprecated(modelId, msg.sender);
    }

    /// @inheritdoc IModelRegistry
    /// @dev Offering to the zero address takes an offer back.
    function offerOwnership(bytes32 lineage, address successor) external {
        require(_lineages[lineage].owner == msg.sender, NotModelOwner(lineage, msg.sender));
        _lineages[lineage].successor = successor;
        emit OwnershipOffered(lineage, msg.sender, successor);
    }

    /// @inheritdoc IModelRegistry
    function acceptOwnership(bytes32 lineage) external {
        Lineage storage model = _lineages[lineage];
        require(model.successor == msg.sender, NotModelOwner(lineage, msg.sender));
        address from = model.owner;
        model.owner = msg.sender;
        model.successor = address(0);
        emit OwnershipTransferred(lineage, from, msg.sender);
    }

    /// @inheritdoc IModelRegistry
    function getModel(uint256 modelId) external view returns (ModelCommitment memory) {
        return _version(modelId).commitment;
    }

    /// @inheritdoc IModelRegistry
    function getVersion(uint256 modelId) external view returns (Version memory) {
        return _version(modelId);
    }

    /// @inheritdoc IModelRegistry
    function ownerOf(uint256 modelId) external view returns (address) {
        return _lineages[_version(modelId).lineage].owner;
    }

    /// @inheritdoc IModelRegistry
    function latest(bytes32 lineage) external view returns (uint256 modelId) {
        uint32 number = _lineages[lineage].latest;
        return number == 0 ? 0 : versionId(lineage, number);
    }

    /// @inheritdoc IModelRegistry
    /// @dev A deprecated version still verifies: what was proved stays true.
    function verifyInference(
        uint256 modelId,
        bytes calldata input,
        int256[] calldata outputs,
        bytes calldata proof
    ) external view {
        Version storage version = _version(modelId);
        Claim memory claim = Claim({
            circuitId: version.commitment.circuitHash,
            weights: version.binding.weights,
            input: input,
            outputs: outputs
        });
        version.binding.verifier.verify(claim, proof);
    }

    /// @inheritdoc IERC165
    function supportsInterface(bytes4 interfaceId) external pure returns (bool) {
        return interfaceId == type(IModelRegistry).interfaceId || interfaceId == type(IERC165).interfaceId;
    }

    /// @inheritdoc IModelRegistry
    function versionId(bytes32 lineage, uint32 number) public pure returns (uint256) {
        return uint256(keccak256(abi.encode(lineage, number)));
    }

    /// @inheritdoc IModelRegistry
    function lineageOf(address owner, string calldata name) public pure returns (bytes32) {
        return keccak256(abi.encode(owner, name));
    }

    function _publish(bytes32 lineage, ModelCommitment calldata commitment, Binding calldata binding)
        private
        returns (uint256 modelId)
    {
        require(commitment.modelHash != 0, InvalidCommitment("modelHash"));
        require(commitment.circuitHash != 0, InvalidCommitment("circuitHash"));
        require(commitment.vkHash != 0, InvalidCommitment("vkHash"));
        require(commitment.proofSystemId != 0, InvalidCommitment("proofSystemId"));
        require(address(binding.verifier).code.length > 0, InvalidCommitment("verifier"));
        require(binding.weights != 0, InvalidCommitment("weights"));
        require(binding.outputMultiplier > 0, InvalidCommitment("outputMultiplier"));
        require(binding.outputShift < 128, InvalidCommitment("outputShift"));
        uint32 number = ++_lineages[lineage].latest;
        modelId = versionId(lineage, number);
        require(_mayServe(binding.verifier, modelId), ForeignVerifier(modelId, binding.verifier));
        _versions[modelId] = Version({
            lineage: lineage,
            number: number,
            publishedAt: uint64(block.timestamp),
            deprecated: false,
            commitment: commitment,
            binding: binding
        });
    }

    /// @dev Whether a verifier has no context, or that of this version. What reverts, answers with less
    /// than a word or runs out of gas has none: no generated verifier does. Too little gas for the call
    /// is too little for what comes after it, so nobody can make a context unreadable.
    function _mayServe(IProofVerifier verifier, uint256 modelId) private view returns (bool) {
        bytes4 selector = IContextVerifier.context.selector;
        bool answered;
        bytes32 context;
        // In assembly, since nothing of a longer answer may be copied.
        assembly ("memory-safe") {
            mstore(0, selector)
            answered := staticcall(CONTEXT_GAS, verifier, 0, 4, 0, 32)
            answered := and(answered, gt(returndatasize(), 31))
            context := mload(0)
        }
        return
            !answered || context == keccak256(abi.encode(CONTEXT_TAG, block.chainid, address(this), modelId));
    }

    function _version(uint256 modelId) private view returns (Version storage version) {
        version = _versions[modelId];
        require(version.number != 0, UnknownModel(modelId));
    }

    function _ownedLineage(uint256 modelId) private view returns (bytes32 lineage) {
        lineage = _version(modelId).lineage;
        require(_lineages[lineage].owner == msg.sender, NotModelOwner(lineage, msg.sender));
    }
}
