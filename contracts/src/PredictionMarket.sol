// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IModelRegistry} from "./interfaces/IModelRegistry.sol";
import {IPredictionConsumer} from "./interfaces/IPredictionConsumer.sol";
import {IPredictionMarket} from "./interfaces/IPredictionMarket.sol";
import {Claim} from "./interfaces/IProofVerifier.sol";
import {Claims} from "./libraries/Claims.sol";

/// @title Escrowed on-chain requests for proven predictions, without an administrator.
/// @dev The balance is at all times the prices of the open requests plus what is owed. A proof is not
/// tied to one request: where two requests ask a version the same input, the same proof settles both,
/// as it answers both, and both are paid for.
contract PredictionMarket is IPredictionMarket, ReentrancyGuardTransient {
    struct Offer {
        uint128 price;
        bool offered;
    }

    uint64 public constant MIN_WINDOW = 1 minutes;
    uint64 public constant MAX_WINDOW = 30 days;
    uint32 public constant MAX_CALLBACK_GAS = 2_000_000;
    /// @dev Gas kept for the call itself and for what follows it.
    uint256 private constant CALLBACK_MARGIN = 20_000;

    IModelRegistry public immutable registry;
    /// @notice Number of requests so far; ids count from 1.
    uint256 public requestCount;

    mapping(uint256 modelId => Offer) private _offers;
    mapping(uint256 requestId => Request) private _requests;
    /// @inheritdoc IPredictionMarket
    mapping(address account => uint256) public owed;

    constructor(IModelRegistry registry_) {
        registry = registry_;
    }

    /// @inheritdoc IPredictionMarket
    function setPrice(uint256 modelId, uint128 price, bool offered) external {
        require(registry.ownerOf(modelId) == msg.sender, NotModelOwner(modelId, msg.sender));
        _offers[modelId] = Offer({price: price, offered: offered});
        emit PriceSet(modelId, price, offered);
    }

    /// @inheritdoc IPredictionMarket
    /// @dev Not guarded against reentrancy, so that a callback can request its next prediction: it calls
    /// nobody but the registry, and touches no existing request.
    function request(uint256 modelId, bytes calldata input, uint32 callbackGas, uint64 deadline)
        external
        payable
        returns (uint256 requestId)
    {
        Offer memory offer = _offers[modelId];
        IModelRegistry.Version memory version = registry.getVersion(modelId);
        require(offer.offered && !version.deprecated, NotOffered(modelId));
        require(msg.value == offer.price, PriceMismatch(offer.price, msg.value));
        require(callbackGas <= MAX_CALLBACK_GAS, CallbackGasTooHigh(callbackGas, MAX_CALLBACK_GAS));
        uint64 earliest = uint64(block.timestamp) + MIN_WINDOW;
        uint64 latest = uint64(block.timestamp) + MAX_WINDOW;
        require(deadline >= earliest && deadline <= latest, DeadlineOutOfRange(deadline, earliest, latest));
        requestId = ++requestCount;
        _requests[requestId] = Request({
            requester: msg.sender,
            deadline: deadline,
            callbackGas: callbackGas,
            payee: registry.ownerOf(modelId),
            status: Status.Open,
            callbackPending: false,
            price: offer.price,
            verifier: version.binding.verifier,
            modelId: modelId,
            circuitId: version.commitment.circuitHash,
            weights: version.binding.weights,
            inputHash: keccak256(input),
            outputsHash: 0
        });
        emit Requested(requestId, modelId, msg.sender, input, offer.price, deadline, callbackGas);
    }

    /// @inheritdoc IPredictionMarket
    function fulfil(uint256 requestId, bytes calldata input, int256[] calldata outputs, bytes calldata proof)
        external
        nonReentrant
    {
        Request storage stored = _requests[requestId];
        require(stored.status == Status.Open, NotOpen(requestId, stored.status));
        require(block.timestamp <= stored.deadline, DeadlinePassed(requestId, stored.deadline));
        bytes32 inputHash = keccak256(input);
        require(inputHash == stored.inputHash, InputMismatch(requestId));
        // A view call, so it may come before the effects.
        stored.verifier.verify(Claim(stored.circuitId, stored.weights, input, outputs), proof);

        bytes32 outputsHash = Claims.hashOutputs(outputs);
        stored.status = Status.Fulfilled;
        stored.outputsHash = outputsHash;
        owed[stored.payee] += stored.price;

        bool callbackOk = _callBack(requestId, stored, outputs, stored.callbackGas);
        stored.callbackPending = !callbackOk;
        emit Fulfilled(
            requestId,
            stored.modelId,
            msg.sender,
            Claims.digest(stored.circuitId, stored.weights, inputHash, outputsHash),
            outputs,
            callbackOk
        );
    }

    /// @inheritdoc IPredictionMarket
    function retryCallback(uint256 requestId, int256[] calldata outputs) external nonReentrant {
        Request storage stored = _requests[requestId];
        require(stored.callbackPending, NoCallbackPending(requestId));
        require(Claims.hashOutputs(outputs) == stored.outputsHash, OutputsMismatch(requestId));
        stored.callbackPending = false;
        require(_callBack(requestId, stored, outputs, gasleft()), CallbackFailed(requestId));
        emit CallbackRetried(requestId, true);
    }

    /// @inheritdoc IPredictionMarket
    function refund(uint256 requestId) external nonReentrant {
        Request storage stored = _requests[requestId];
        require(stored.status == Status.Open, NotOpen(requestId, stored.status));
        require(block.timestamp > stored.deadline, DeadlineNotPassed(requestId, stored.deadline));
        stored.status = Status.Refunded;
        owed[stored.requester] += stored.price;
        emit Refunded(requestId, stored.requester, stored.price);
    }

    /// @inheritdoc IPredictionMarket
    function withdraw(address payable to) external nonReentrant {
        uint256 amount = owed[msg.sender];
        require(amount > 0, NothingToWithdraw(msg.sender));
        owed[msg.sender] = 0;
        emit Withdrawn(msg.sender, to, amount);
        (bool ok,) = to.call{value: amount}("");
        require(ok, TransferFailed(to));
    }

    /// @inheritdoc IPredictionMarket
    function priceOf(uint256 modelId) external view returns (uint128 price, bool offered) {
        Offer memory offer = _offers[modelId];
        return (offer.price, offer.offered && !registry.getVersion(modelId).deprecated);
    }

    /// @inheritdoc IPredictionMarket
    function getRequest(uint256 requestId) external view returns (Request memory) {
        return _requests[requestId];
    }

    /// @dev Calls the requester back with `gasLimit`, never less than the gas it named; returns
    /// whether that succeeded. Without callback gas there is nothing to call.
    function _callBack(uint256 requestId, Request storage stored, int256[] calldata outputs, uint256 gasLimit)
        private
        returns (bool ok)
    {
        uint256 promised = stored.callbackGas;
        if (promised == 0) return true;
        address consumer = stored.requester;
        bytes memory data =
            abi.encodeCall(IPredictionConsumer.onPrediction, (requestId, stored.modelId, outputs));
        // A call gets at most 63/64 of the gas left, silently less than asked for (EIP-150).
        uint256 needed = (promised * 64) / 63 + CALLBACK_MARGIN;
        require(gasleft() >= needed, TooLittleGas(gasleft(), needed));
        // Solidity would copy whatever the consumer returns, at the submitter's cost.
        assembly ("memory-safe") {
            ok := call(gasLimit, consumer, 0, add(data, 0x20), mload(data), 0, 0)
        }
    }
}
