// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IProofVerifier} from "./IProofVerifier.sol";

/// @title Escrowed on-chain requests for proven predictions.
/// @notice A request pays now; whoever brings a valid proof settles it; the version's owner is paid,
/// whoever submits. Past its deadline anybody can have the requester refunded. No administrator.
interface IPredictionMarket {
    enum Status {
        None,
        Open,
        Fulfilled,
        Refunded
    }

    /// @dev Price, payee, verifier, circuit and weights are snapshots of the time of the request.
    struct Request {
        address requester;
        uint64 deadline;
        uint32 callbackGas;
        address payee;
        Status status;
        bool callbackPending;
        uint128 price;
        IProofVerifier verifier;
        uint256 modelId;
        bytes32 circuitId;
        bytes32 weights;
        bytes32 inputHash; // keccak256(input)
        bytes32 outputsHash; // keccak256(abi.encodePacked(outputs)), once fulfilled
    }

    event PriceSet(uint256 indexed modelId, uint128 price, bool offered);
    event Requested(
        uint256 indexed requestId,
        uint256 indexed modelId,
        address indexed requester,
        bytes input,
        uint128 price,
        uint64 deadline,
        uint32 callbackGas
    );
    event Fulfilled(
        uint256 indexed requestId,
        uint256 indexed modelId,
        address indexed fulfiller,
        bytes32 claimDigest,
        int256[] outputs,
        bool callbackOk
    );
    event CallbackRetried(uint256 indexed requestId, bool callbackOk);
    event Refunded(uint256 indexed requestId, address indexed requester, uint128 price);
    event Withdrawn(address indexed account, address indexed to, uint256 amount);

    error NotOffered(uint256 modelId);
    error PriceMismatch(uint128 price, uint256 paid);
    error DeadlineOutOfRange(uint64 deadline, uint64 earliest, uint64 latest);
    error CallbackGasTooHigh(uint32 given, uint32 maximum);
    error NotOpen(uint256 requestId, Status status);
    error DeadlinePassed(uint256 requestId, uint64 deadline);
    error DeadlineNotPassed(uint256 requestId, uint64 deadline);
    error InputMismatch(uint256 requestId);
    error OutputsMismatch(uint256 requestId);
    error NoCallbackPending(uint256 requestId);
    error CallbackFailed(uint256 requestId);
    error TooLittleGas(uint256 available, uint256 needed);
    error NothingToWithdraw(address account);
    error TransferFailed(address to);
    error NotModelOwner(uint256 modelId, address caller);

    /// @notice Offers a version at a price in wei, or withdraws the offer. Version owner only.
    function setPrice(uint256 modelId, uint128 price, bool offered) external;
    function priceOf(uint256 modelId) external view returns (uint128 price, bool offered);
    /// @notice Requests a prediction; `msg.value` must be exactly the price. The caller is the
    /// requester: it gets the callback (where `callbackGas > 0`) and the refund.
    function request(uint256 modelId, bytes calldata input, uint32 callbackGas, uint64 deadline)
        external
        payable
        returns (uint256 requestId);
    /// @notice Settles a request with a proof. Anybody may call; the payee is credited.
    /// @dev Reverts with TooLittleGas rather than let a submitter starve the callback.
    function fulfil(uint256 requestId, bytes calldata input, int256[] calldata outputs, bytes calldata proof)
        external;
    /// @notice Calls a failed callback again, with all the gas given; anybody may call.
    function retryCallback(uint256 requestId, int256[] calldata outputs) external;
    /// @notice Credits the price back to the requester after the deadline; anybody may call.
    function refund(uint256 requestId) external;
    /// @notice Pays out what the caller is owed.
    function withdraw(address payable to) external;
    function owed(address account) external view returns (uint256);
    function getRequest(uint256 requestId) external view returns (Request memory);
}
