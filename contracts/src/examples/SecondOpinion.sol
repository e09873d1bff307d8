// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "../interfaces/IModelRegistry.sol";
import {IPredictionConsumer} from "../interfaces/IPredictionConsumer.sol";
import {IPredictionMarket} from "../interfaces/IPredictionMarket.sol";
import {FixedPoint} from "../libraries/FixedPoint.sol";
import {PredictionMarket} from "../PredictionMarket.sol";

/// @title A clinic's second opinion on a biopsy, decided by a proven prediction.
/// @notice A patient asks with the commitment to their measurements and leaves a deposit for a
/// follow-up appointment. The verified prediction moves it: malignant, and the clinic has it and the
/// appointment stands; benign, and the patient has it back. The measurements never reach the chain.
/// @dev An example of a consumer; no medical device. The model's single output is the score of
/// malignant: below zero is benign, anything else malignant, zero too: then a doctor looks.
contract SecondOpinion is IPredictionConsumer {
    enum Decision {
        None,
        Asked,
        Malignant,
        Benign,
        Unanswered
    }

    struct Case {
        address patient;
        Decision decision;
        uint256 deposit;
    }

    /// @notice Gas of the callback; measured at under 100,000.
    uint32 public constant CALLBACK_GAS = 150_000;

    PredictionMarket public immutable market;
    uint256 public immutable modelId;
    address public immutable clinic;
    uint64 public immutable outputMultiplier;
    uint8 public immutable outputShift;

    mapping(uint256 requestId => Case) public cases;
    mapping(address account => uint256) public credits;

    event Asked(uint256 indexed requestId, address indexed patient, uint256 deposit);
    /// @param scoreWad The score with 18 decimals; 0 where the outputs decided nothing.
    event DecisionMade(uint256 indexed requestId, Decision decision, int256 scoreWad);
    event Unanswered(uint256 indexed requestId, address indexed patient, uint256 returned);
    event Collected(address indexed account, uint256 amount);

    error NotMarket(address caller);
    error UnexpectedPrediction(uint256 requestId);
    error PriceNotCovered(uint256 price, uint256 paid);
    error NotRefundable(uint256 requestId);
    error NothingToCollect(address account);
    error TransferFailed(address to);

    constructor(PredictionMarket market_, uint256 modelId_) {
        IModelRegistry.Version memory version = market_.registry().getVersion(modelId_);
        market = market_;
        modelId = modelId_;
        clinic = msg.sender;
        outputMultiplier = version.binding.outputMultiplier;
        outputShift = version.binding.outputShift;
    }

    /// @dev For the market's refunds.
    receive() external payable {
        require(msg.sender == address(market), NotMarket(msg.sender));
    }

    /// @notice Asks for a prediction; of `msg.value`, the price goes to the market and the rest is the
    /// deposit, which may be nothing.
    function ask(bytes calldata input, uint64 deadline) external payable returns (uint256 requestId) {
        (uint128 price,) = market.priceOf(modelId);
        require(msg.value >= price, PriceNotCovered(price, msg.value));
        uint256 deposit = msg.value - price;
        requestId = market.request{value: price}(modelId, input, CALLBACK_GAS, deadline);
        cases[requestId] = Case({patient: msg.sender, decision: Decision.Asked, deposit: deposit});
        emit Asked(requestId, msg.sender, deposit);
    }

    /// @inheritdoc IPredictionConsumer
    function onPrediction(uint256 requestId, uint256 predictedBy, int256[] calldata outputs) external {
        require(msg.sender == address(market), NotMarket(msg.sender));
        Case storage asked = cases[requestId];
        require(asked.decision == Decision.Asked && predictedBy == modelId, UnexpectedPrediction(requestId));
        (Decision decision, int256 scoreWad) = _decide(outputs);
        asked.decision = decision;
        credits[decision == Decision.Malignant ? clinic : asked.patient] += asked.deposit;
        emit DecisionMade(requestId, decision, scoreWad);
    }

    /// @notice Gives the patient price and deposit back where nobody answered in time; anybody may call.
    function reclaim(uint256 requestId) external {
        Case storage asked = cases[requestId];
        require(asked.decision == Decision.Asked, NotRefundable(requestId));
        IPredictionMarket.Request memory request = market.getRequest(requestId);
        if (request.status == IPredictionMarket.Status.Open) {
            market.refund(requestId); // reverts before the deadline
        } else {
            require(request.status == IPredictionMarket.Status.Refunded, NotRefundable(requestId));
        }
        asked.decision = Decision.Unanswered;
        uint256 returned = request.price + asked.deposit;
        credits[asked.patient] += returned;
        emit Unanswered(requestId, asked.patient, returned);
        // One withdrawal may bring the refunds of several cases.
        if (market.owed(address(this)) > 0) market.withdraw(payable(this));
    }

    /// @notice Pays the caller what it is credited.
    function collect() external {
        uint256 amount = credits[msg.sender];
        require(amount > 0, NothingToCollect(msg.sender));
        credits[msg.sender] = 0;
        emit Collected(msg.sender, amount);
        (bool ok,) = msg.sender.call{value: amount}("");
        require(ok, TransferFailed(msg.sender));
    }

    /// @dev Never reverts for outputs that a version can have: a callback that always fails would keep
    /// the deposit for ever. Outputs of another count decide nothing.
    function _decide(int256[] calldata outputs) private view returns (Decision decision, int256 scoreWad) {
        if (outputs.length != 1) return (Decision.Unanswered, 0);
        decision = outputs[0] < 0 ? Decision.Benign : Decision.Malignant;
        scoreWad = FixedPoint.toWad(outputs[0], outputMultiplier, outputShift);
    }
}
